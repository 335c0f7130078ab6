"""The command line, `undertone`. Each command is declared, with its options and examples, in the file of its group.

What a command needs that takes long to import (Ray, torch, Kafka, Redis) is imported when it runs: `--help` is quick.
"""

import typer

from deployments.cli import (
    accesses,
    analyze,
    audit,
    calls,
    demo,
    dlq,
    doctor,
    forget,
    replay,
    send,
    serve,
    token,
    train,
)

app = typer.Typer(
    name="undertone",
    help="Live sentiment of customer-service calls from voice, face and words.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for group in (serve, send, calls, forget, analyze, demo, train, audit, accesses, replay, doctor):
    app.add_typer(group.commands)
app.add_typer(dlq.commands, name="dlq")
app.add_typer(token.commands, name="token")
