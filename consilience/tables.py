"""The tables that cross every boundary: one schema each, checked on read and on write.

Long format, one row per what the key names. Direction is fixed: score, gold and human share all mean acceptability,
1 = acceptable.
"""

from consilience.lm.scorer import STATUSES
from consilience.table_schema import TableSchema, correlation, count, flag, maybe, number, share, text
from consilience.theories import THEORY_NAMES, VALUE_NAMES

_THEORY = text("theory", choices=THEORY_NAMES)
_THEORY_OR_ALL = text("theory", choices=(*THEORY_NAMES, "all"))

DILEMMAS = TableSchema(
    "dilemmas", (text("item_id"), text("text"), maybe(text("source")), maybe(text("group"))), ("item_id",)
)
PAIRS = TableSchema("pairs", (text("item_id"), text("action_0"), text("action_1"), maybe(text("source"))), ("item_id",))
VOTES = TableSchema(
    "votes",
    (text("item_id"), maybe(text("theory", choices=THEORY_NAMES)), text("option"), count("count")),
    ("item_id", "theory", "option"),
)
GOLD = TableSchema("gold", (text("item_id"), _THEORY, share("label")), ("item_id", "theory"))
ANNOTATORS = TableSchema(
    "annotators",
    (
        text("annotator"),
        text("kind"),
        text("source", nullable=True),
        text("revision", nullable=True),
        text("digest", nullable=True),
        text("licence", nullable=True),
        text("persona", nullable=True),
        text("elicitation", nullable=True),
        maybe(text("group")),
        maybe(text("adapter")),
        maybe(text("artefact")),
        maybe(text("parent")),
    ),
    ("annotator",),
)
ANNOTATIONS = TableSchema(
    "annotations",
    (
        text("item_id"),
        _THEORY,
        text("annotator"),
        share("score", nullable=True),
        text("status", choices=STATUSES, optional=True),
        maybe(share("answer_mass")),
        maybe(text("fingerprint")),
    ),
    ("item_id", "theory", "annotator"),
)
CONSENSUS = TableSchema(
    "consensus",
    (
        text("item_id"),
        _THEORY,
        share("consensus", nullable=True),
        maybe(share("mean")),
        maybe(share("calibrated")),
        maybe(number("sd", low=0.0)),
        maybe(share("ci_low")),
        maybe(share("ci_high")),
        count("n_annotators"),
        number("disagreement", low=0.0, nullable=True),
    ),
    ("item_id", "theory"),
)
RELIABILITY = TableSchema(
    "reliability",
    (
        text("annotator"),
        _THEORY_OR_ALL,
        *(number(f"{name}{c}", nullable=True) for c in "10" for name in ("mu", "sigma")),
        *(number(f"{name}{c}", nullable=True) for c in "10" for name in ("mean", "sd")),
        number("informativeness", low=0.0, nullable=True),
        maybe(number("ci_low")),
        maybe(number("ci_high")),
        count("n"),
    ),
    ("annotator", "theory"),
)
ALIGNMENT = TableSchema(
    "alignment",
    (
        text("annotator"),
        _THEORY_OR_ALL,
        share("f1", nullable=True),
        maybe(share("f1_mean")),
        count("n"),
        flag("flagged"),
        text("reason", nullable=True),
    ),
    ("annotator", "theory"),
)
TAU_SWEEP = TableSchema(
    "tau_sweep",
    (text("annotator"), _THEORY, share("tau"), share("f1", nullable=True)),
    ("annotator", "theory", "tau"),
)
INFLUENCE = TableSchema(
    "influence",
    (
        text("annotator"),
        *(share(f"{method}_{what}", nullable=True) for method in ("mean", "em") for what in ("shift", "flipped")),
    ),
    ("annotator",),
)
REALIGNMENT = TableSchema(
    "realignment",
    (
        text("annotator"),
        _THEORY,
        text("verdict", choices=("kept", "rolled back", "stopped")),
        text("reason", nullable=True),
        count("items"),
        count("held_out", nullable=True),
        *(share(f"f1_{arm}", nullable=True) for arm in ("raw", "head", "tokens", "lambda0")),
        *(number(f"js_{arm}", low=0.0, nullable=True) for arm in ("raw", "head", "tokens", "lambda0")),
        *(
            number(f"{gain}{end}", nullable=True)
            for gain in ("f1_gain", "js_gain", "f1_gain_raw", "js_gain_raw")
            for end in ("", "_low", "_high")
        ),
        text("artefact", nullable=True),
        count("artefact_bytes", nullable=True),
    ),
    ("annotator", "theory"),
)
REALIGNED_F1 = TableSchema(
    "realigned_f1",
    (
        text("pair_annotator"),
        text("pair_theory", choices=THEORY_NAMES),
        text("annotator"),
        _THEORY,
        share("f1_before", nullable=True),
        share("f1_after", nullable=True),
        flag("realigned"),
    ),
    ("pair_annotator", "pair_theory", "annotator", "theory"),
)
AGREEMENT = TableSchema(
    "agreement",
    (text("annotator"), text("other"), correlation("error_correlation"), correlation("residual_correlation")),
    ("annotator", "other"),
)
FAMILIES = TableSchema(
    "families",
    (
        text("annotator"),
        text("family", nullable=True),
        text("closest", nullable=True),
        correlation("correlation"),
    ),
    ("annotator",),
)
GROUPS = TableSchema(
    "groups",
    (
        text("item_id"),
        _THEORY,
        text("group"),
        share("consensus"),
        number("sd", low=0.0),
        count("n_annotators"),
        text("method", choices=("calibrated", "mean")),
    ),
    ("item_id", "theory", "group"),
)
CONTESTED = TableSchema(
    "contested",
    (
        text("item_id"),
        _THEORY,
        text("highest"),
        text("lowest"),
        *(share(name) for name in ("difference", "p", "q")),
    ),
    ("item_id", "theory"),
)
NOISE = TableSchema(
    "noise",
    (
        text("annotator"),
        number("noise_sd", low=0.0),
        share("noise_share", nullable=True),
        number("shift"),
        count("n"),
    ),
    ("annotator",),
)
DRIFT = TableSchema("drift", (text("annotator"), count("n"), share("p"), flag("alarm")), ("annotator",))
CALIBRATION = TableSchema(
    "calibration",
    (text("method"), share("consensus"), share("people"), count("n")),
    ("method", "consensus"),
)
QUESTIONS = TableSchema(
    "questions",
    (
        text("question_id"),
        text("text"),
        text("split"),
        maybe(text("situation")),
        maybe(text("reference")),
        *(share(value) for value in VALUE_NAMES),
        text("profile_source", choices=("human", "predicted")),
    ),
    ("question_id",),
)
ANSWERS = TableSchema(
    "answers",
    (
        text("question_id"),
        text("system"),
        text("text", nullable=True),
        maybe(text("value", choices=VALUE_NAMES)),
        maybe(number("reward")),
    ),
    ("question_id", "system"),
)
VALUE_EXAMPLES = TableSchema(
    "value_examples",
    (
        text("item_id"),
        text("text"),
        text("situation"),
        text("source"),
        text("label_source", choices=("human", "predicted")),
        text("split", choices=("train", "validation", "test"), optional=True),
        *(share(value, nullable=True) for value in VALUE_NAMES),
    ),
    ("item_id",),
)
VALUE_METRICS = TableSchema(
    "value_metrics",
    (
        text("question", choices=("relevance", "follows")),
        text("value", choices=VALUE_NAMES),
        text("examples"),
        text("system", choices=("classifier", "bag_of_words", "majority")),
        *(share(f"{what}{end}", nullable=True) for what in ("auc", "accuracy", "ece") for end in ("", "_low", "_high")),
        count("n"),
        count("positives"),
        count("situations"),
    ),
    ("question", "value", "examples", "system"),
)
VALUE_CLASSIFIERS = TableSchema(
    "value_classifiers",
    (
        text("question", choices=("relevance", "follows")),
        text("value", choices=VALUE_NAMES),
        text("verdict", choices=("usable", "refused", "untrained")),
        text("reason", nullable=True),
        *(number(f"auc_gain{end}", nullable=True) for end in ("", "_low", "_high")),
        number("temperature", low=0.0, nullable=True),
        share("threshold", nullable=True),
        count("train"),
        count("train_human"),
    ),
    ("question", "value"),
)
AGENTS = TableSchema(
    "agents",
    (
        text("value", choices=VALUE_NAMES),
        text("measure", choices=("reward", "judge", "kl", "length", "ended", "repetition")),
        *(number(f"{name}{end}", nullable=True) for name in ("base", "agent", "gain") for end in ("", "_low", "_high")),
        count("n"),
    ),
    ("value", "measure"),
)
CALIBRATE_METRICS = TableSchema(
    "calibrate_metrics",
    (
        text("system"),
        text("metric", choices=("ce", "ce_calibrated", "dm", "dm_1", "accuracy", "f1_macro", "ece", "js", "tv")),
        *(number(name, low=0.0, nullable=True) for name in ("value", "low", "high")),
    ),
    ("system", "metric"),
)
CALIBRATE_PREDICTIONS = TableSchema(
    "calibrate_predictions",
    (
        text("item_id"),
        text("system"),
        text("option"),
        *(share(name) for name in ("p", "p_calibrated", "people")),
    ),
    ("item_id", "system", "option"),
)
REJECTED = TableSchema("rejected", (count("row", low=1), text("reason")), ("row", "reason"))
