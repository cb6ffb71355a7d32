"""An issue tracker with a large, generated data set: projects, issues, labels, comments, drafts."""
