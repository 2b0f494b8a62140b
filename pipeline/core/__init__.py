"""Types that flow through the pipeline; standard library, pydantic and numpy only."""
