"""From many annotators' scores to one weighted consensus: truncated-normal EM, baselines, agreement, misalignment."""
