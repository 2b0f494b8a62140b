"""A recipe carried out: the plan, its steps, the evaluation of each file, gains and verdicts."""
