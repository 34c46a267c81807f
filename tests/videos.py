"""Tiny videos, made with PyAV."""

from fractions import Fraction

import numpy as np


def write(path, frames, *, codec="libx264", rate=25, pixels="yuv420p", times=None, **options):
    """Write frames, (t, h, w, 3) uint8; with `times`, when each is shown, in hundredths of a second."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options={key: str(value) for key, value in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        if times:
            stream.codec_context.time_base = Fraction(1, 100)
        for i, values in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.asarray(values, np.uint8), format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 100)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def audio_only(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        for _ in range(9):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path
