//! The whole agent with its real tail engine on real files.
