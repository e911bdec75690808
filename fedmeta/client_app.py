"""The Flower ClientApp of every node, in Flower's simulation and on devices."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from fedmeta.device_log import logged
from fedmeta.host import Host, log_of
from fedmeta.node import answer

app = ClientApp()


def _reply(message: Message, context: Context) -> Message:
    with logged(log_of(context.node_config), message) as log:
        host = Host.of(context.node_config)
        reply = Message(
            answer(message.metadata.message_type, message.content, host), reply_to=message
        )
        log(reply)
    return reply


app.query()(_reply)
app.train()(_reply)
app.evaluate()(_reply)
