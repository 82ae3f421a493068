"""Models that match how people split: distributions over answers, tuned on and measured against people's votes."""
