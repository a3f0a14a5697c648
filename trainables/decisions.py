"""What may be decided about a trial after an epoch, in the words that broker and engines exchange."""

__all__ = ["CONTINUE", "FINISH", "PAUSE"]

CONTINUE = "continue"  # train its next epoch
FINISH = "finish"  # it has ended: keep its best model
PAUSE = "pause"  # give up the slot; its checkpoint will be continued
