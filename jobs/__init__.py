"""One module per stage: `python -m jobs.NAME --config FILE --out DIR`, the same after `ray job submit ... --`."""
