"""Running a language model: find its weights, score a dilemma under several theories, generate."""
