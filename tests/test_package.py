"""The face, the wheel, and what an import costs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_what_an_import_brings():
    """The face; besides torch, and what torch or the shape annotations bring, nothing; no Lightning with the hub."""
    code = """
import sys, torch.utils.flop_counter, jaxtyping
before = set(sys.modules)
import glore
print(*(name for name in vars(glore) if not name.startswith("_")))
print(*{name.split(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names))
import glore.hub
print(*{"pytorch_lightning", "lightning_fabric", "matplotlib"} & set(sys.modules))
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    face, brought, with_hub = out.splitlines()
    functions = {"adopt", "insert", "remove", "spread", "units_of"}
    assert set(face.split()) == functions | {"GloRe1d", "GloRe2d", "GloRe3d", "probe", "units", "weights"}
    assert brought.split() == ["glore"]
    assert not with_hub


def test_the_wheel_builds_installs_and_imports(tmp_path):
    """In an environment with torch and the core's dependencies, but without any extra."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(tmp_path), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {"glore/py.typed", "glore/recipes/digits.yaml", "glore/show/page.html"} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks"))]

    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True)
    code = f"""
import sys
sys.path.insert(0, {str(target)!r})
class Refuse:
    def find_spec(self, name, path=None, target=None):
        extras = (
            *("timm", "torchvision", "huggingface_hub", "lightning_fabric", "pytorch_lightning", "matplotlib"),
            *("yaml", "jsonargparse", "PIL", "av", "scipy", "sklearn", "onnx"),
        )
        if name.split(".")[0] in extras:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
import glore, torch
assert glore.__file__.startswith({str(target)!r}), glore.__file__
net = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU())
glore.insert(net, {{"": (1,)}}, glore.GloRe2d, example=torch.zeros(1, 3, 4, 4))
print(net(torch.zeros(1, 3, 4, 4)).shape)
from glore.weights import files
files.save({str(tmp_path / "net")!r}, net.state_dict(), {{"class_path": "torch.nn.Identity"}})
import glore.cli
assert glore.cli.main(["--help"]) == 0
assert glore.cli.main(["demo"]) == 2
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("torch.Size([1, 8, 4, 4])")
    assert "usage: glore COMMAND" in out.stdout
    assert re.fullmatch(r"glore: No module named '\w+': pip install 'glore\[show]'", out.stderr.strip()), out.stderr
