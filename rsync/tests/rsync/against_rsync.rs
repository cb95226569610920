//! Stock rsync as the judge.
