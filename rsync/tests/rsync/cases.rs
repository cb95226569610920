//! The cases of bad input.
