"""Bodies of requests and responses of the service's own endpoints."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from consilience.theories import THEORY_NAMES
from consilience.values.context import ContextKind
from consilience.values.profile import Profile, parse_profile


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid Unicode: a surrogate stands alone") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("empty; expected text")
    return text


def _theory(name: str) -> str:
    if name not in THEORY_NAMES:
        raise ValueError(f"unknown theory; expected one of {', '.join(THEORY_NAMES)}")
    return name


def _unique(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("a theory is named twice")
    return names


Text = Annotated[str, AfterValidator(_unicode), AfterValidator(_not_blank), Field(json_schema_extra={"pattern": r"\S"})]
Theory = Annotated[str, AfterValidator(_theory), Field(json_schema_extra={"enum": list(THEORY_NAMES)})]
Theories = Annotated[
    list[Theory],
    AfterValidator(_unique),
    Field(min_length=1, max_length=len(THEORY_NAMES), json_schema_extra={"uniqueItems": True}),
]
Weight = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]


class Body(BaseModel):
    """Base of every request: a field that is not known is an error, and so is a number in quotes."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())


class MoralProfile(Body):
    """How much each value matters, 0 to 1; a value that is left out is not asked for."""

    authority: Weight = 0.0
    care: Weight = 0.0
    fairness: Weight = 0.0
    loyalty: Weight = 0.0
    sanctity: Weight = 0.0

    def to_profile(self) -> Profile:
        return parse_profile(self.model_dump(), "profile")


class AnswerRequest(Body):
    """A question, and whose values the answer is to respect."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"question": "May I read my daughter's diary?", "profile": {"care": 1, "authority": 0.5}}]
        }
    )
    question: Text
    profile: MoralProfile
    context: ContextKind = Field("dynamic", description="full: all agents are heard; dynamic: those the profile names")
    max_tokens: int | None = Field(None, ge=1, description="longest answer, in tokens")
    temperature: Temperature = Field(0.0, description="0 = always the likeliest token")
    stream: bool = Field(False, description="server-sent events: agent, token, done, error")


class AgentAnswer(BaseModel):
    """What one consulted agent said."""

    value: str
    answer: str | None
    reward: float | None = Field(description="P(the answer follows the value), 0..1; null without a classifier")
    problem: str | None = Field(None, description="why there is no answer")
    seconds: float | None = None


class Usage(BaseModel):
    """Tokens of all consulted models together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerResponse(BaseModel):
    """The aggregated answer, and the voices behind it."""

    id: str
    answer: str | None
    finish_reason: Literal["stop", "length"]
    profile: dict[str, float]
    context: ContextKind
    agents: list[AgentAnswer]
    usage: Usage
    seconds: float


class JudgeRequest(Body):
    """A dilemma to judge."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"dilemma": "I told my sister that I was ill so as not to see her."}]}
    )
    dilemma: Text
    theories: Theories | None = Field(None, description="default: all")


class Judgement(BaseModel):
    """One annotator under one theory."""

    annotator: str
    score: float | None = Field(description="0..1, 1 = acceptable; null = missing")
    status: str
    answer_mass: float | None
    disagrees: bool = Field(description="on the other side of one half than the calibrated consensus")


class Verdict(BaseModel):
    """The witnesses' consensus under one theory; numbers are acceptability, 0..1."""

    theory: str
    consensus: float | None = Field(description="posterior of the EM; read it as a label")
    calibrated: float | None
    sd: float | None
    ci_low: float | None
    ci_high: float | None
    n_annotators: int
    split: float | None = Field(description="standard deviation of the scores of annotators that carry signal")
    abstain: bool
    reason: str | None
    annotators: list[Judgement]


class JudgeResponse(BaseModel):
    """Verdicts, how reliable each witness is, and who is missing."""

    id: str
    verdicts: list[Verdict]
    reliability: list[dict[str, Any]]
    missing: list[dict[str, str]]
    warnings: list[str]
    seconds: float
