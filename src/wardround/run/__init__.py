"""From a study to a run folder: the only room that knows every stage."""
