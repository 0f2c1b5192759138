"""Policy over providers: which call goes when, how often, at what cost, and when to give up.

    teacher                 open_teacher(): requests in, durable outcomes out
    dispatcher              the loop that launches, retries and drains calls
    call_queue              calls that wait, and who waits for them
    call_executor           one call: the attempt, its record, what follows from it
    rate_limiter            the user's limits and the provider's, in one place
    adaptive_pacer          a pace learned from refusals
    adaptive_concurrency    how many calls may be in flight
    circuit_breaker         when a provider answers nobody
    retry                   whether a failed call is made again; the only place that retries
    budget, usage           dollars, calls and tokens: limits, and what was used
    response_validation     what a completion is worth: an answer, a repair, or a lost row
    response_index          what the journal already knows of requests
    group_commit            answers that arrive together go to the disk together
    stop_signal             how a person stops a run

A new way to reach a teacher touches `providers` alone.
"""
