"""The probe catches servers that do not hold the trainer's weights."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from metarlgym.serving.logprob_probe import ProbeMismatch, compare, server_continuation
from tests.e2e.servers.conftest import LETTERS, ONE, Served, run, training

STALE = '''
"""A gloo engine as it was before tied heads were packed anew: the fault that the probe is there to catch."""

from metarlgym.serving import engine


class StaleHead(engine.GlooWeightTransferEngine):
    def finish_weight_update(self):
        engine.finalize_layerwise_reload(self.model, self.model_config)
        self._begun = False


def register():
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    WeightTransferEngineFactory._registry["gloo"] = lambda: StaleHead
'''


def trainer_logprobs(model, prompt, ids):
    tokens = torch.tensor([prompt + ids])
    with torch.no_grad():
        logprobs = torch.log_softmax(model(tokens).logits[0, len(prompt) - 1 : -1].float(), -1)
    return logprobs.gather(-1, torch.tensor(ids)[:, None])[:, 0].tolist()


def test_another_model_of_the_same_form_is_caught(serve, models):
    server = serve("tied")
    # Whatever a run before this one left on the server, neither of these is it and itself at once.
    prompt = list(range(10, 40))
    ids, logprobs = server_continuation(server.url, str(server.model), prompt, 32, 1.0, 60)
    model = AutoModelForCausalLM.from_pretrained(models["untied"])
    with pytest.raises(ProbeMismatch, match="does not hold the trainer's weights"):
        compare(server.url, logprobs, trainer_logprobs(model, prompt, ids), 1e-3)


def test_a_stale_tied_head_stops_the_run(models, tmp_path):
    plugin = tmp_path / "plugin"
    (plugin / "zz_stale-1.0.dist-info").mkdir(parents=True)
    (plugin / "zz_stale.py").write_text(STALE)
    (plugin / "zz_stale-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: zz-stale\nVersion: 1.0\n")
    (plugin / "zz_stale-1.0.dist-info" / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nzz_stale = zz_stale:register\n"
    )
    from tests.e2e.servers.conftest import ROOT

    server = Served(models["tied"], tmp_path, PYTHONPATH=f"{plugin}:{ROOT}").wait()
    try:
        command = training(ONE, LETTERS, server.model, server.url, tmp_path / "run", 8, "--probe_every", "1")
        done = run([*command, "--learning_rate", "1e-2"])
    finally:
        server.stop()
    print(done.stderr.strip()[-600:])
    assert done.returncode == 2
    assert "does not hold the trainer's weights" in done.stderr
    assert "--resume" in done.stderr
