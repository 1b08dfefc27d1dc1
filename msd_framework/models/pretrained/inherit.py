"""A model that starts from a larger one: from some of its layers, and from a part of their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from msd_framework.models.base import MultimodalModel
from msd_framework.models.layers.transformer import SelfAttention

# which layers of a stack are taken: spread evenly from the first one on, the first or last ones, or those of a list
Layers: TypeAlias = Literal["even", "first", "last"] | list[int]
Cut: TypeAlias = Literal["slice", "svd"]  # what is kept of the heads of an attention where they get smaller


def choose_layers(layers: Layers, num_taken: int, num_layers: int) -> list[int]:
    """The numbers of the layers that a stack takes from a larger one."""
    if num_taken > num_layers:
        raise ValueError(f"wanted at most as many layers as the {num_layers} of what it starts from, got {num_taken}.")
    if isinstance(layers, list):
        if len(layers) != num_taken or not all(0 <= i < num_layers for i in layers):
            raise ValueError(f"wanted {num_taken} numbers of layers between 0 and {num_layers - 1}, got {layers}.")
        return list(layers)
    first = {"first": 0, "last": num_layers - num_taken}
    return [first[layers] + i if layers in first else i * num_layers // num_taken for i in range(num_taken)]


def low_rank(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    r"""Two matrices whose product comes nearest to that of two others among all of a rank.

    .. math:: A B \approx \left(U_r \Sigma_r^{1/2}\right) \left(\Sigma_r^{1/2} V_r^\top\right), \qquad A B = U \Sigma V^\top

    with the r largest singular values: nothing of this rank is nearer in the Frobenius norm (Eckart and Young, 1936). The product
    itself is never made, so that it takes little time however large it is: A [M, K] and B [K, N] become [M, r] and [r, N].
    """
    q_left, r_left = torch.linalg.qr(left.double())
    q_right, r_right = torch.linalg.qr(right.double().T)
    u, s, v = torch.linalg.svd(r_left @ r_right.T)
    root = s[:rank].sqrt()
    return (q_left @ u[:, :rank] * root).to(left), (root[:, None] * (v[:rank] @ q_right.T)).to(right)


class Inheritance:
    r"""What a model takes of a larger one, by the names of their parts.

    - A tensor of the same shape is copied: a model of the same sizes becomes the same model.
    - A stack of fewer layers (a list of modules) takes some of them.
    - In parts that a model calls `narrows`, a tensor that is smaller is cut to the first rows and columns of the larger one, so
      that all parts keep the same features of the sequence. Of an attention the first heads are kept, and of heads that are
      smaller the first features; with `svd`, the best approximation of what they compute: of the scores
      :math:`x^\top W_q^\top W_k\, x'`, biases included, and of what is read, :math:`W_o W_v x`, each a linear map whose rank
      is the size of a head (`low_rank`).

    Taking layers is that of Sanh et al., DistilBERT, 2019 (arXiv:1910.01108), section 3.
    """

    def __init__(
        self, model: MultimodalModel, source: MultimodalModel, layers: Layers = "even", cut: Cut = "slice", only: Sequence[str] = ()
    ):
        self.model, self.source, self.cut, self.only = model, source, cut, tuple(only)
        self.problems: list[str] = []  # what does not fit, as sentences
        self.stacks = self._stacks(layers)
        self.state: Mapping[str, Tensor] = source.state_dict()
        self.taken = {name: self.name_of(name) for name in model.state_dict() if self._is_taken(name)}
        self.attentions: dict[str, tuple[SelfAttention, SelfAttention]] = {}
        modules = dict(source.named_modules())
        for name, module in model.named_modules():
            other = modules.get(self.name_of(name))
            if isinstance(module, SelfAttention) and isinstance(other, SelfAttention) and self._is_taken(f"{name}."):
                self.attentions[name] = module, other
        self.problems = self.problems or self._problems()

    def tensors(self) -> dict[str, Tensor]:
        """The weights that the model takes, by its names for them; a ValueError if something does not fit."""
        if self.problems:
            raise ValueError(" ".join(self.problems))
        own = self.model.state_dict()
        tensors = {}
        for name, there in self.taken.items():
            tensors[name] = self.state[there][tuple(map(slice, own[name].shape))]
        for name, (attention, other) in self.attentions.items():
            if _sizes(attention) != _sizes(other):
                for part, tensor in smaller_attention(attention, other, self.cut).items():
                    tensors[f"{name}.{part}"] = tensor
        return tensors

    def name_of(self, name: str) -> str:
        for stack, chosen in self.stacks.items():
            if name.startswith(f"{stack}."):
                number, dot, rest = name.removeprefix(f"{stack}.").partition(".")
                name = f"{stack}.{chosen[int(number)]}{dot}{rest}"
        return name

    def _stacks(self, layers: Layers) -> dict[str, list[int]]:
        theirs = {name: len(m) for name, m in self.source.named_modules() if isinstance(m, nn.ModuleList)}
        stacks: dict[str, list[int]] = {}
        for name, module in self.model.named_modules():
            if isinstance(module, nn.ModuleList) and name in theirs and self._is_taken(f"{name}."):
                try:
                    stacks[name] = choose_layers(layers, len(module), theirs[name])
                except ValueError as error:
                    self.problems.append(f"layers: {name}: {error}")
                    stacks[name] = [min(i, theirs[name] - 1) for i in range(len(module))]
        return stacks

    def _is_taken(self, name: str) -> bool:
        return not self.only or any(name.startswith(f"{part}.") for part in self.only)

    def _problems(self) -> list[str]:
        names = list(self.model.state_dict())
        parts, problems = ", ".join(sorted({name.partition(".")[0] for name in names})), []
        for i, part in enumerate(self.only):
            if not any(name.startswith(f"{part}.") for name in names):
                problems.append(f"only[{i}]: the model has no part {part!r}; it has {parts}.")
        if problems:
            return problems
        missing = [name for name, there in self.taken.items() if there not in self.state]
        if missing:
            text = f"what it starts from has no {missing[0]} ({len(missing)} of {len(self.taken)} tensors are missing there)."
            return [f"{text} Start from a model of the same kind, or name the parts to take in only."]
        if self.model.num_classes != self.source.num_classes and not self.only:
            text = f"what it starts from tells {self.source.num_classes} classes apart and the model {self.model.num_classes}."
            return [f"{text} Name the parts to take in only, without the classifier."]
        own = self.model.state_dict()
        for name, there in self.taken.items():
            here, theirs = list(own[name].shape), list(self.state[there].shape)
            differ = f"{name} is {here} here and {theirs} in what it starts from."
            if len(here) != len(theirs) or any(a > b for a, b in zip(here, theirs)):
                return [f"{differ} Only a smaller model can start from it."]
            if here != theirs and not name.startswith(self.model.narrows):
                narrow = ", ".join(part.rstrip(".") for part in self.model.narrows) or "no part of this model"
                return [f"{differ} What can be cut is {narrow}: give the rest the same sizes."]
        for name, (attention, other) in self.attentions.items():
            (heads, size), (their_heads, their_size) = _sizes(attention), _sizes(other)
            if heads > their_heads or size > their_size:
                text = f"{name} has {heads} heads of {size} features, and what it starts from {their_heads} of {their_size}"
                return [f"{text}: neither may be more. Take another num_heads."]
        return []


def smaller_attention(attention: SelfAttention, source: SelfAttention, cut: Cut) -> dict[str, Tensor]:
    """The weights of an attention from those of one with as many or more heads, as large or larger, of as many features or more."""
    (heads, size), (_, their_size), width = _sizes(attention), _sizes(source), attention.query.in_features

    def rows(layer: nn.Linear) -> Tensor:
        """Weights and bias of each head that is kept, [h, d, D' + 1]."""
        weight = torch.cat([layer.weight[:, :width], layer.bias[:, None]], 1)
        return weight.view(-1, their_size, width + 1)[:heads].detach()

    query, key, value = rows(source.query), rows(source.key), rows(source.value)
    read = source.output.weight[:width].view(width, -1, their_size)[:, :heads].transpose(0, 1).detach()  # [h, D', d]
    bias = source.output.bias[:width].detach()
    if cut == "slice" or size == their_size:
        query, key, value, read = query[:, :size], key[:, :size], value[:, :size], read[..., :size]
    else:
        # scores are divided by the root of a head's size, which changes
        scale = (size / their_size) ** 0.5
        left, right = zip(*(low_rank(scale * q.T, k, size) for q, k in zip(query, key)))  # [D' + 1, d'] and [d', D' + 1]
        query, key = torch.stack(left).transpose(1, 2), torch.stack(right)
        # the weights of an attention add up to 1, so the bias of its values passes through it
        bias = bias + (read @ value[..., -1:]).sum((0, 2))
        left, right = zip(*(low_rank(o, v[:, :-1], size) for o, v in zip(read, value)))  # [D', d'] and [d', D']
        read, value = torch.stack(left), torch.stack(right)
        value = torch.cat([value, value.new_zeros(heads, size, 1)], -1)
    tensors = {"output.weight": read.transpose(0, 1).reshape(width, heads * size), "output.bias": bias}
    for name, rows_of_heads in {"query": query, "key": key, "value": value}.items():  # [h, d, D' + 1]
        tensors[f"{name}.weight"] = rows_of_heads[..., :-1].reshape(heads * size, width)
        tensors[f"{name}.bias"] = rows_of_heads[..., -1].reshape(heads * size)
    return tensors


def _sizes(attention: SelfAttention) -> tuple[int, int]:
    return attention.num_heads, attention.query.out_features // attention.num_heads
