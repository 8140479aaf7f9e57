"""Pictures as they might also have been taken: turned, shifted, lit differently. For training only."""
