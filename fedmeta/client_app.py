"""The Flower ClientApp of every node, in Flower's simulation and on devices."""

from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmeta.node import answer

STATES = "~/.local/state/fedmeta"
"""Where clients keep their state, unless the node config says ``states``."""
app = ClientApp()


def _reply(message: Message, context: Context) -> Message:
    states = Path(str(context.node_config.get("states", STATES))).expanduser()
    return Message(answer(message.metadata.message_type, message.content, states), reply_to=message)


app.query()(_reply)
app.train()(_reply)
app.evaluate()(_reply)
