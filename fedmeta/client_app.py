"""The Flower ClientApp of every node, in Flower's simulation and on devices."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmeta.node import answer

app = ClientApp()


def _reply(message: Message, _: Context) -> Message:
    return Message(answer(message.metadata.message_type, message.content), reply_to=message)


app.query()(_reply)
app.train()(_reply)
app.evaluate()(_reply)
