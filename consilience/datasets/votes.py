"""What people's votes say: the share of them that finds an item acceptable."""

import pyarrow as pa
import pyarrow.compute as pc

from consilience.errors import UserError
from consilience.table_schema import conform
from consilience.tables import GOLD, VOTES

THEORY = "commonsense"
ACCEPTABLE = ("OTHER", "NOBODY", "acceptable")
UNACCEPTABLE = ("AUTHOR", "EVERYBODY", "unacceptable")
UNDECIDED = ("INFO",)


def human_share(votes: pa.Table, where: str = "votes") -> pa.Table:
    """The `gold` table of `votes`: label = acceptable / (acceptable + unacceptable) of each item (and theory).

    Options are those of Scruples anecdotes (OTHER and NOBODY acceptable, AUTHOR and EVERYBODY not, INFO left out;
    Lourie et al. 2021) or plainly acceptable and unacceptable. Votes without a theory are everyday judgements and
    count as commonsense; an item without a countable vote has no label.

    Raises:
        UserError: not a `votes` table, or an option that is none of these (pairs of actions have no such share);
            `where` and the row are in the message.
    """
    votes = conform(votes, VOTES, where)
    option = votes.column("option")
    known = pc.is_in(option, pa.array([*ACCEPTABLE, *UNACCEPTABLE, *UNDECIDED]))
    row = pc.index(known, False).as_py()
    if row >= 0:
        expected = ", ".join([*ACCEPTABLE, *UNACCEPTABLE, *UNDECIDED])
        raise UserError(f"{where}: row {row + 1}, column 'option': expected one of {expected}, found '{option[row]}'")
    theory = votes.column("theory") if "theory" in votes.column_names else pa.nulls(len(votes), pa.string())
    acceptable = pc.if_else(pc.is_in(option, pa.array(ACCEPTABLE)), votes.column("count"), 0)
    counts = pa.table(
        {
            "item_id": votes.column("item_id"),
            "theory": pc.fill_null(theory, THEORY),
            "acceptable": acceptable,
            "all": votes.column("count"),
        }
    ).filter(pc.invert(pc.is_in(option, pa.array(UNDECIDED))))
    sums = counts.group_by(["item_id", "theory"], use_threads=False).aggregate([("acceptable", "sum"), ("all", "sum")])
    sums = sums.filter(pc.greater(sums.column("all_sum"), 0))
    label = pc.divide(sums.column("acceptable_sum").cast(pa.float64()), sums.column("all_sum"))
    return conform(sums.append_column("label", label), GOLD, where)
