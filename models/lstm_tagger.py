"""A recurrent network that gives each word of a sentence its part of speech.

Source: Huang, Xu, Yu, "Bidirectional LSTM-CRF Models for Sequence Tagging", arXiv 1508.01991,
section 2.1 (the LSTM tagger), here of two layers; the 17 tags are those of Universal Dependencies
(Nivre et al., LREC 2016).

There are no public weights; the LSTM's parameters are named as in `torch.nn.LSTM`.
"""

from __future__ import annotations

from torch import Tensor, nn


def lstm_tagger(
    vocab: int = 10000, embedding: int = 256, hidden: int = 256, layers: int = 2, tags: int = 17
) -> LSTMTagger:
    """Build the network; by default it has 3,617,041 parameters."""
    return LSTMTagger(vocab, embedding, hidden, layers, tags)


class LSTMTagger(nn.Module):  # type: ignore[misc]  # torch is not typed here
    """Embedding, LSTM from left to right, linear layer.

    Shapes::

        input_ids  [batch, sequence]            int64
        embedding  [batch, sequence, embedding]
        lstm       [batch, sequence, hidden]
        scores     [batch, sequence, tags]      before softmax
    """

    def __init__(self, vocab: int, embedding: int, hidden: int, layers: int, tags: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, embedding)
        self.lstm = nn.LSTM(embedding, hidden, layers, batch_first=True)
        self.scores = nn.Linear(hidden, tags)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Compute scores."""
        hidden, _ = self.lstm(self.embedding(input_ids))
        return self.scores(hidden)
