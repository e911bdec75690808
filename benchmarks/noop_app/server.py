"""Asks every node a few times."""

from flwr.app import ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp

TIMEOUT = 120.0
app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """One round after the other."""
    config = context.run_config
    for _ in range(int(config["rounds"])):
        content = RecordDict()
        content["config"] = ConfigRecord({"import": str(config["import"])})
        messages = [
            Message(content, dst_node_id=node, message_type=MessageType.TRAIN)
            for node in grid.get_node_ids()
        ]
        for reply in grid.send_and_receive(messages, timeout=TIMEOUT):
            if reply.has_error():
                raise RuntimeError(reply.error.reason)
