"""A client that answers, and imports torch before if it is told to."""

import importlib

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Do nothing."""
    for module in str(message.content.config_records["config"]["import"]).split():
        importlib.import_module(module)
    return Message(RecordDict(), reply_to=message)
