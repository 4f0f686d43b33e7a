"""From data as they come to a trained model and back: parts, preparation, settings, the run folder."""
