"""Values of a wrong type are refused in words, not by what first trips over them.

Within these tests types are checked at every call, so this is tried in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SETUP = """
import json, math, sys
from sinkscope.avsr.config import AvsrConfig, EncoderConfig
from sinkscope.avsr.evaluation.cases import pairs_of_model
from sinkscope.avsr.mome_settings import MomeSettings
from sinkscope.avsr.passes import AllPairs, SampledPair
from sinkscope.errors import InputError
both = {"audio_encoder": EncoderConfig("whisper"), "video_encoder": EncoderConfig("x")}
config = AvsrConfig({}, **both)
said = []
for code in json.load(sys.stdin):
    try:
        said.append(repr(eval(code)))
    except Exception as error:
        said.append(f"{type(error).__name__}: {error}")
json.dump(said, sys.stdout)
"""

REFUSED = {
    "MomeSettings(top_k=2.5)": "mome: top_k is 2.5; give 0 or more, a whole number.",
    "MomeSettings(top_k=True)": "mome: top_k is True; give 0 or more, a whole number.",
    "MomeSettings(bottleneck='12')": "mome: bottleneck is '12'; give 1 or more",
    "MomeSettings(routed=None)": "mome: routed is None; give 0 or more",
    "MomeSettings(shared=math.inf)": "mome: shared is inf; give 0 or more",
    "MomeSettings(renormalise='no')": "mome: renormalise is 'no'; give true or false.",
    "MomeSettings(router_bias=1)": "mome: router_bias is 1; give true or false.",
    "MomeSettings(expert_bias=None)": "mome: expert_bias is None; give true or false.",
    "MomeSettings(balance_padding='true')": "mome: balance_padding is 'true'",
    "MomeSettings(scale=math.nan)": "mome: scale is nan; give a finite number.",
    "MomeSettings(scale='1')": "mome: scale is '1'; give a finite number.",
    "MomeSettings(balance_weight=math.nan)": "mome: balance_weight is nan; give 0 or more.",
    "MomeSettings(z_weight=math.inf)": "mome: z_weight is inf; give 0 or more.",
    "MomeSettings(placement=['mlp'])": "mome: placement is ['mlp']; give one of attention, mlp",
    "AllPairs(('4',), (2,))": "AllPairs: a rate is '4'; give whole numbers of at least 1.",
    "AllPairs((None,), (2,))": "AllPairs: a rate is None; give whole numbers",
    "AllPairs((math.nan,), (2,))": "AllPairs: a rate is nan; give whole numbers",
    "AllPairs((4,), 2)": "AllPairs: the video rates are 2; give a list of numbers.",
    "AllPairs((4,), (2,), 'audio')": "AllPairs: modalities is 'audio'; give a list of names.",
    "AllPairs((4,), (2,), weights={'video': '1'})": "AllPairs: the weight of video is '1'",
    "SampledPair((4,), (2,), seed=0.5)": "SampledPair: the seed is 0.5; give a whole number",
    "pairs_of_model([4, 2], config)": "The rates are [4, 2]; give pairs of an audio rate and",
    "pairs_of_model(4, config)": "The rates are 4; give pairs",
    "pairs_of_model([(4, '2')], config)": "The rates are [(4, '2')]; give pairs",
    "pairs_of_model([(4, None)], config)": "The rates are [(4, None)]; give pairs",
    "pairs_of_model(['42'], config)": "The rates are ['42']; give pairs",
    "pairs_of_model([(4, 2, 3)], config)": "The rates are [(4, 2, 3)]; give pairs",
    "pairs_of_model([(4, 2.5)], config)": "video_rate is 2.5; give a whole number",
    "AvsrConfig({}, **both, audio_rates=(None,))": "AvsrConfig.audio_rates is (None,); give",
}
TAKEN = {
    "pairs_of_model([[4, 2], [4.0, 2.0], [16, 5]], config)": "[(4, 2), (16, 5)]",
    "pairs_of_model('all', config)": "[(4, 2)]",
    "MomeSettings(scale=2, balance_weight=0, routed=0, top_k=0).scale": "2",
}


@pytest.fixture(scope="module")
def said() -> dict[str, str]:
    codes = [*REFUSED, *TAKEN]
    done = subprocess.run(
        [sys.executable, "-c", SETUP],
        input=json.dumps(codes),
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return dict(zip(codes, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("code", REFUSED)
def test_refused(said: dict[str, str], code: str) -> None:
    assert said[code].startswith(f"InputError: {REFUSED[code]}")


@pytest.mark.parametrize("code", TAKEN)
def test_taken(said: dict[str, str], code: str) -> None:
    assert said[code] == TAKEN[code]
