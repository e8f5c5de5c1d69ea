"""Scripts about sequences, as PyTorch's users know them, written anew for a few lines of text and short series.

Ideas: pytorch/examples (`word_language_model`, `time_sequence_prediction`), A. Karpathy's nanoGPT, PyTorch's tutorial
on translation with attention (Bahdanau et al. 2015), Bai et al. 2018 (temporal convolutions with weight
normalisation).
"""

# ruff: noqa: C408  (as such scripts are written: names of the papers, plain zip)

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from typing import Any

import numpy as np
from ported_support import Names, seeded, text

__all__ = ["SCRIPTS"]


def _corpus(names: Names, batch_size: int) -> tuple[Any, int]:
    """The words of the text as `batchify` of the word language model arranges them, and how many there are."""
    words = text().replace("\n", " <eos> ").split()
    index: dict[str, int] = {}
    ids = names.torch.tensor([index.setdefault(word, len(index)) for word in words]).type(names.torch.int64)
    num_batches = ids.size(0) // batch_size
    return ids.narrow(0, 0, num_batches * batch_size).view(batch_size, -1).t().contiguous(), len(index)


def word_language_model_lstm(names: Names, steps: int) -> list[float]:
    """An LSTM whose state is carried over batches (detached), tied weights, clipping, SGD by hand."""
    torch, nn, F = names.torch, names.nn, names.F

    class RNNModel(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, rnn_type: str, ntoken: int, ninp: int, nhid: int, nlayers: int, tie_weights: bool) -> None:
            super().__init__()
            self.ntoken = ntoken
            self.drop = nn.Dropout(0.0)
            self.encoder = nn.Embedding(ntoken, ninp)
            self.rnn = getattr(nn, rnn_type)(ninp, nhid, nlayers, dropout=0.0)
            self.decoder = nn.Linear(nhid, ntoken)
            if tie_weights:
                self.decoder.weight = self.encoder.weight
            nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
            nn.init.zeros_(self.decoder.bias)
            self.nhid, self.nlayers = nhid, nlayers

        def forward(self, input: Any, hidden: Any) -> Any:
            emb = self.drop(self.encoder(input))
            output, hidden = self.rnn(emb, hidden)
            decoded = self.decoder(self.drop(output))
            decoded = decoded.view(-1, self.ntoken)
            return F.log_softmax(decoded, dim=1), hidden

        def init_hidden(self, bsz: int) -> Any:
            weight = next(self.parameters())
            return (weight.new_zeros(self.nlayers, bsz, self.nhid), weight.new_zeros(self.nlayers, bsz, self.nhid))

    def repackage_hidden(h: Any) -> Any:
        if isinstance(h, torch.Tensor):
            return h.detach()
        return tuple(repackage_hidden(v) for v in h)

    train_data, ntokens = _corpus(names, 4)
    bptt = 7
    model = seeded(names, RNNModel("LSTM", ntokens, 12, 12, 2, tie_weights=True))
    assert len(list(model.parameters())) == 10
    criterion = nn.NLLLoss()
    hidden = model.init_hidden(4)
    losses = []
    model.train()
    for step in range(steps):
        i = (step * bptt) % (len(train_data) - 1)
        seq_len = min(bptt, len(train_data) - 1 - i)
        data, targets = train_data[i : i + seq_len], train_data[i + 1 : i + 1 + seq_len].view(-1)
        model.zero_grad()
        hidden = repackage_hidden(hidden)
        output, hidden = model(data, hidden)
        loss = criterion(output, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        with torch.no_grad():  # published: p.data.add_(p.grad, alpha=-lr)
            for p in model.parameters():
                p.add_(p.grad, alpha=-5.0)
        losses.append(loss.item())
    return losses


def word_language_model_transformer(names: Names, steps: int) -> list[float]:
    """`nn.TransformerEncoder` under a causal mask, with the sinusoidal encoding as a buffer."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim

    class PositionalEncoding(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, d_model: int, max_len: int = 100) -> None:
            super().__init__()
            pe = torch.zeros(max_len, d_model)
            position = torch.arange(0, max_len, dtype=torch.float).unsqueeze(1)
            div_term = torch.exp(torch.arange(0, d_model, 2).float() * (-math.log(10000.0) / d_model))
            pe[:, 0::2] = torch.sin(position * div_term)
            pe[:, 1::2] = torch.cos(position * div_term)
            pe = pe.unsqueeze(0).transpose(0, 1)
            self.register_buffer("pe", pe)

        def forward(self, x: Any) -> Any:
            return x + self.pe[: x.size(0), :]

    class TransformerModel(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, ntoken: int, ninp: int, nhead: int, nhid: int, nlayers: int) -> None:
            super().__init__()
            self.src_mask: Any = None
            self.pos_encoder = PositionalEncoding(ninp)
            layer = nn.TransformerEncoderLayer(ninp, nhead, nhid, dropout=0.0)
            self.encoder = nn.TransformerEncoder(layer, nlayers, enable_nested_tensor=False)
            self.input_emb = nn.Embedding(ntoken, ninp)
            self.ninp = ninp
            self.decoder = nn.Linear(ninp, ntoken)

        def _generate_square_subsequent_mask(self, sz: int) -> Any:
            return torch.log(torch.tril(torch.ones(sz, sz)))

        def forward(self, src: Any) -> Any:
            if self.src_mask is None or self.src_mask.size(0) != len(src):
                self.src_mask = self._generate_square_subsequent_mask(len(src)).to(src.device)
            src = self.input_emb(src) * math.sqrt(self.ninp)
            src = self.pos_encoder(src)
            output = self.encoder(src, mask=self.src_mask)
            return F.log_softmax(self.decoder(output), dim=-1)

    train_data, ntokens = _corpus(names, 4)
    model = seeded(names, TransformerModel(ntokens, 16, 2, 24, 2))
    optimizer = optim.Adam(model.parameters(), lr=3e-3, betas=(0.9, 0.98), eps=1e-9)
    scheduler = optim.lr_scheduler.LambdaLR(optimizer, lambda s: min((s + 1) / 5, 1.0))
    losses = []
    for step in range(steps):
        i = (step % 2) * 8
        data, targets = train_data[i : i + 8], train_data[i + 1 : i + 9].reshape(-1)
        optimizer.zero_grad()
        loss = F.nll_loss(model(data).view(-1, ntokens), targets)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


def time_sequence(names: Names, steps: int) -> list[float]:
    """Two LSTMCells in float64 over sine waves, trained by LBFGS with a closure, then predicting on their own."""
    torch, nn, optim = names.torch, names.nn, names.optim

    class Sequence(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm1 = nn.LSTMCell(1, 8)
            self.lstm2 = nn.LSTMCell(8, 8)
            self.linear = nn.Linear(8, 1)

        def forward(self, input: Any, future: int = 0) -> Any:
            outputs = []
            h_t = torch.zeros(input.size(0), 8, dtype=torch.double)
            c_t = torch.zeros(input.size(0), 8, dtype=torch.double)
            h_t2 = torch.zeros(input.size(0), 8, dtype=torch.double)
            c_t2 = torch.zeros(input.size(0), 8, dtype=torch.double)
            for input_t in input.split(1, dim=1):
                h_t, c_t = self.lstm1(input_t, (h_t, c_t))
                h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
                output = self.linear(h_t2)
                outputs += [output]
            for _i in range(future):
                h_t, c_t = self.lstm1(output, (h_t, c_t))
                h_t2, c_t2 = self.lstm2(h_t, (h_t2, c_t2))
                output = self.linear(h_t2)
                outputs += [output]
            return torch.cat(outputs, dim=1)

    x = np.sin((np.arange(13) + np.array([0, 3, 5, 8])[:, None]) / 2.0).astype("float64")
    input, target = torch.from_numpy(x[1:, :-1]), torch.from_numpy(x[1:, 1:])
    seq = seeded(names, Sequence()).double()
    criterion = nn.MSELoss()
    optimizer = optim.LBFGS(seq.parameters(), lr=0.8, max_iter=4)
    losses = []
    for _ in range(min(steps, 5)):

        def closure() -> Any:
            optimizer.zero_grad()
            loss = criterion(seq(input), target)
            loss.backward()
            losses.append(loss.item())
            return loss

        optimizer.step(closure)
    with torch.no_grad():
        pred = seq(torch.from_numpy(x[:1, :-1]), future=4)
        assert pred[:, :-4].detach().numpy().shape == (1, 12)
        losses.append(criterion(pred[:, :-4], torch.from_numpy(x[:1, 1:])).item())
    return losses


def nano_gpt(names: Names, steps: int) -> list[float]:
    """The model, the parameter groups, `get_batch`, `estimate_loss`, the schedule and `generate` with top-k."""
    torch, nn, F = names.torch, names.nn, names.F

    class LayerNorm(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, ndim: int, bias: bool) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(ndim))
            self.bias = nn.Parameter(torch.zeros(ndim)) if bias else None

        def forward(self, input: Any) -> Any:
            return F.layer_norm(input, self.weight.shape, self.weight, self.bias, 1e-5)

    class CausalSelfAttention(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, n_embd: int, n_head: int, block_size: int, flash: bool) -> None:
            super().__init__()
            self.c_attn = nn.Linear(n_embd, 3 * n_embd, bias=False)
            self.c_proj = nn.Linear(n_embd, n_embd, bias=False)
            self.n_head, self.n_embd, self.flash = n_head, n_embd, flash
            mask = torch.tril(torch.ones(block_size, block_size)).view(1, 1, block_size, block_size)
            self.register_buffer("bias", mask, persistent=False)

        def forward(self, x: Any) -> Any:
            B, T, C = x.size()
            q, k, v = self.c_attn(x).split(self.n_embd, dim=2)
            k = k.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            q = q.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            v = v.view(B, T, self.n_head, C // self.n_head).transpose(1, 2)
            if self.flash:
                y = F.scaled_dot_product_attention(q, k, v, attn_mask=None, dropout_p=0, is_causal=True)
            else:
                att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
                att = att.masked_fill(self.bias[:, :, :T, :T] == 0, float("-inf"))
                att = F.softmax(att, dim=-1)
                y = att @ v
            y = y.transpose(1, 2).contiguous().view(B, T, C)
            return self.c_proj(y)

    class Block(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, n_embd: int, n_head: int, block_size: int, flash: bool) -> None:
            super().__init__()
            self.ln_1 = LayerNorm(n_embd, bias=False)
            self.attn = CausalSelfAttention(n_embd, n_head, block_size, flash)
            self.ln_2 = LayerNorm(n_embd, bias=True)
            self.mlp = nn.Sequential(nn.Linear(n_embd, 2 * n_embd), nn.GELU(), nn.Linear(2 * n_embd, n_embd))

        def forward(self, x: Any) -> Any:
            x = x + self.attn(self.ln_1(x))
            return x + self.mlp(self.ln_2(x))

    class GPT(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, vocab_size: int, block_size: int, n_embd: int = 16, n_head: int = 2) -> None:
            super().__init__()
            self.block_size = block_size
            self.transformer = nn.ModuleDict(
                dict(
                    wte=nn.Embedding(vocab_size, n_embd),
                    wpe=nn.Embedding(block_size, n_embd),
                    drop=nn.Dropout(0.0),
                    h=nn.ModuleList([Block(n_embd, n_head, block_size, flash) for flash in (True, False)]),
                    ln_f=LayerNorm(n_embd, bias=False),
                )
            )
            self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
            self.transformer.wte.weight = self.lm_head.weight
            self.apply(self._init_weights)
            for pn, p in self.named_parameters():
                if pn.endswith("c_proj.weight"):
                    torch.nn.init.normal_(p, mean=0.0, std=0.02 / math.sqrt(4))

        def get_num_params(self) -> int:
            return sum(int(p.numel()) for p in self.parameters()) - int(self.transformer.wpe.weight.numel())

        def _init_weights(self, module: Any) -> None:
            if isinstance(module, nn.Linear):
                torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)
                if module.bias is not None:
                    torch.nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                torch.nn.init.normal_(module.weight, mean=0.0, std=0.02)

        def forward(self, idx: Any, targets: Any = None) -> Any:
            _b, t = idx.size()
            assert t <= self.block_size
            pos = torch.arange(0, t, dtype=torch.long, device=idx.device)
            x = self.transformer.drop(self.transformer.wte(idx) + self.transformer.wpe(pos))
            for block in self.transformer.h:
                x = block(x)
            x = self.transformer.ln_f(x)
            if targets is not None:
                logits = self.lm_head(x)
                loss = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
            else:
                logits, loss = self.lm_head(x[:, [-1], :]), None
            return logits, loss

        def configure_optimizers(self, weight_decay: float, learning_rate: float, betas: tuple[float, float]) -> Any:
            param_dict = {pn: p for pn, p in self.named_parameters() if p.requires_grad}
            decay_params = [p for _n, p in param_dict.items() if p.dim() >= 2]
            nodecay_params = [p for _n, p in param_dict.items() if p.dim() < 2]
            optim_groups = [
                {"params": decay_params, "weight_decay": weight_decay},
                {"params": nodecay_params, "weight_decay": 0.0},
            ]
            fused_available = "fused" in inspect.signature(torch.optim.AdamW).parameters
            extra_args = dict(fused=False) if fused_available else dict()
            return torch.optim.AdamW(optim_groups, lr=learning_rate, betas=betas, **extra_args)

        @torch.no_grad()  # type: ignore[untyped-decorator]
        def generate(self, idx: Any, max_new_tokens: int, temperature: float = 1.0, top_k: int | None = None) -> Any:
            for _ in range(max_new_tokens):
                idx_cond = idx if idx.size(1) <= self.block_size else idx[:, -self.block_size :]
                logits, _ = self(idx_cond)
                logits = logits[:, -1, :] / temperature
                if top_k is not None:
                    v, _ = torch.topk(logits, min(top_k, logits.size(-1)))
                    logits[logits < v[:, [-1]]] = -float("Inf")
                probs = F.softmax(logits, dim=-1)
                idx_next = torch.multinomial(probs, num_samples=1)
                idx = torch.cat((idx, idx_next), dim=1)
            return idx

    chars = sorted(set(text()))
    stoi = {ch: i for i, ch in enumerate(chars)}
    train_data = np.array([stoi[ch] for ch in text()], dtype=np.uint16)
    rng = np.random.default_rng(0)
    block_size, batch_size, learning_rate = 12, 8, 1e-2

    def get_batch() -> Any:
        ix = torch.from_numpy(rng.integers(len(train_data) - block_size, size=(batch_size,)))
        x = torch.stack([torch.from_numpy((train_data[i : i + block_size]).astype(np.int64)) for i in ix])
        y = torch.stack([torch.from_numpy((train_data[i + 1 : i + 1 + block_size]).astype(np.int64)) for i in ix])
        return x, y

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def estimate_loss() -> float:
        model.eval()
        losses = torch.zeros(2)
        for k in range(2):
            _logits, loss = model(*get_batch())
            losses[k] = loss.item()
        model.train()
        return float(losses.mean())

    def get_lr(it: int) -> float:
        if it < 3:
            return learning_rate * (it + 1) / 4
        decay_ratio = (it - 3) / (steps - 3)
        return 1e-3 + 0.5 * (1.0 + math.cos(math.pi * decay_ratio)) * (learning_rate - 1e-3)

    model = seeded(names, GPT(len(chars), block_size))
    optimizer = model.configure_optimizers(0.1, learning_rate, (0.9, 0.95))
    ctx = nullcontext()
    out = []
    for iter_num in range(steps):
        for param_group in optimizer.param_groups:
            param_group["lr"] = get_lr(iter_num)
        if iter_num == 0:
            out.append(estimate_loss())
        for _micro_step in range(2):
            X, Y = get_batch()
            with ctx:
                _logits, loss = model(X, Y)
                loss = loss / 2
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        out.append(loss.item() * 2)
    y = model.generate(torch.zeros((1, 1), dtype=torch.long), 16, temperature=0.8, top_k=5)
    assert len("".join(chars[i] for i in y[0].tolist())) == 17
    return out


def seq2seq(names: Names, steps: int) -> list[float]:
    """A packed bidirectional GRU reads, an LSTM-free decoder with additive attention writes, under teacher forcing."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    rnn_utils = nn.utils.rnn
    rng = np.random.default_rng(2)
    lengths = sorted((int(n) for n in rng.integers(2, 7, 6)), reverse=False)
    sources = [torch.from_numpy(rng.integers(3, 9, n)) for n in lengths]
    src = rnn_utils.pad_sequence(sources, batch_first=True, padding_value=0)
    trg = rnn_utils.pad_sequence([s.flip(0) for s in sources], batch_first=True)
    assert (src != 0).sum(dim=1).tolist() == lengths

    class Encoder(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 8, padding_idx=0)
            self.gru = nn.GRU(8, 8, num_layers=2, batch_first=True, bidirectional=True)

        def forward(self, x: Any, lens: Any) -> Any:
            packed = rnn_utils.pack_padded_sequence(self.embedding(x), lens, batch_first=True, enforce_sorted=False)
            output, hidden = self.gru(packed)
            output, out_lens = rnn_utils.pad_packed_sequence(output, batch_first=True)
            assert out_lens.tolist() == lens
            return output, torch.cat((hidden[-2], hidden[-1]), dim=-1)

    class BahdanauAttention(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, hidden_size: int) -> None:
            super().__init__()
            self.Wa = nn.Linear(hidden_size, hidden_size)
            self.Ua = nn.Linear(hidden_size, hidden_size)
            self.Va = nn.Linear(hidden_size, 1)

        def forward(self, query: Any, keys: Any, mask: Any) -> Any:
            scores = self.Va(torch.tanh(self.Wa(query) + self.Ua(keys)))
            scores = scores.squeeze(2).unsqueeze(1)
            scores = scores.masked_fill(~mask.unsqueeze(1), -1e9)
            weights = F.softmax(scores, dim=-1)
            return torch.bmm(weights, keys), weights

    class Decoder(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(9, 8)
            self.attention = BahdanauAttention(16)
            self.cell = nn.GRUCell(24, 16)
            self.out = nn.Linear(16, 9)

        def forward(self, keys: Any, hidden: Any, mask: Any, target: Any) -> Any:
            token = torch.ones(keys.size(0), dtype=torch.long)
            outputs, attentions = [], []
            for i in range(target.size(1)):
                context, weights = self.attention(hidden.unsqueeze(1), keys, mask)
                hidden = self.cell(torch.cat((self.embedding(token), context.squeeze(1)), dim=1), hidden)
                outputs.append(self.out(hidden))
                attentions.append(weights)
                token = target[:, i]
            return torch.stack(outputs, dim=1), torch.cat(attentions, dim=1)

    encoder, decoder = seeded(names, Encoder()), seeded(names, Decoder(), 1)
    encoder_optimizer = optim.Adam(encoder.parameters(), lr=0.01)
    decoder_optimizer = optim.Adam(decoder.parameters(), lr=0.01)
    criterion = nn.CrossEntropyLoss(ignore_index=0)
    losses = []
    for _ in range(steps):
        encoder_optimizer.zero_grad()
        decoder_optimizer.zero_grad()
        keys, hidden = encoder(src, lengths)
        outputs, attentions = decoder(keys, hidden, src != 0, trg)
        loss = criterion(outputs.transpose(1, 2), trg)
        loss.backward()
        encoder_optimizer.step()
        decoder_optimizer.step()
        losses.append(loss.item())
    assert torch.allclose(attentions.sum(-1), torch.ones(attentions.shape[:2]))
    return losses


def temporal_convolution(names: Names, steps: int) -> list[float]:
    """Dilated causal convolutions with weight normalisation, and their weights saved, loaded and resumed half-way."""
    torch, nn, F, optim = names.torch, names.nn, names.F, names.optim
    weight_norm = nn.utils.parametrizations.weight_norm

    class Chomp1d(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self, chomp_size: int) -> None:
            super().__init__()
            self.chomp_size = chomp_size

        def forward(self, x: Any) -> Any:
            return x[:, :, : -self.chomp_size].contiguous()

    def block(n_inputs: int, n_outputs: int, dilation: int) -> Any:
        conv = nn.Conv1d(n_inputs, n_outputs, 2, stride=1, padding=dilation, dilation=dilation)
        return nn.Sequential(weight_norm(conv), Chomp1d(dilation), nn.ReLU(), nn.Dropout(0.0))

    def build() -> tuple[Any, Any, Any]:
        model = nn.Sequential(block(2, 6, 1), block(6, 6, 2), block(6, 6, 4), nn.Conv1d(6, 1, 1))
        optimizer = optim.AdamW(model.parameters(), lr=0.02, amsgrad=True)
        return model, optimizer, optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.02, total_steps=steps)

    rng = np.random.default_rng(4)
    x = torch.from_numpy(rng.random((8, 2, 10)).astype(np.float32))
    y = x.prod(dim=1).cumsum(dim=-1)
    model, optimizer, scheduler = build()
    seeded(names, model)
    losses = []
    for step in range(steps):
        if step == steps // 2:  # everything from its states
            states = [thing.state_dict() for thing in (model, optimizer, scheduler)]
            model, optimizer, scheduler = build()
            for thing, state in zip((model, optimizer, scheduler), states, strict=True):
                thing.load_state_dict(state)
        optimizer.zero_grad()
        loss = F.smooth_l1_loss(model(x).squeeze(1), y, beta=0.5)
        loss.backward()
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
    return losses


SCRIPTS = (
    word_language_model_lstm,
    word_language_model_transformer,
    time_sequence,
    nano_gpt,
    seq2seq,
    temporal_convolution,
)
