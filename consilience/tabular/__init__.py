"""Tables from a language model: rows as text, a generator guided by a discriminator, and what its rows are worth.

Reading order: `schema` (what columns hold), `codec` (a row as text), `grammar` and `language` (a row as tokens),
`row_model`, `fine_tuning`, `sampling`; `discriminator`, `row_policy` and `adversarial` (the rounds); `generator` (all
of it as an estimator). What rows are worth: `utility`, `fidelity`, `privacy`, together in `comparison`;
`simple_generators` are what to compare with.
"""
