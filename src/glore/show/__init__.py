"""What a person looks at: maps, figures and pages."""
