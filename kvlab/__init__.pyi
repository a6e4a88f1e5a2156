# What `import kvlab` offers, for type checkers: at run time a name is fetched when it is asked for.

from kvlab.attention import attend as attend
from kvlab.cache import Cache as Cache
from kvlab.cache import KVCache as KVCache
from kvlab.cache import LayerKV as LayerKV
from kvlab.checkpoint import load as load
from kvlab.config import ModelConfig as ModelConfig
from kvlab.course import check as check
from kvlab.course import hint as hint
from kvlab.fast.compiled import compiled_decode as compiled_decode
from kvlab.fast.int8 import int8_weights_ as int8_weights_
from kvlab.generation import decode as decode
from kvlab.generation import generate as generate
from kvlab.generation import prefill as prefill
from kvlab.generation import stream as stream
from kvlab.measure.probe import Probe as Probe
from kvlab.measure.uncached import generate_uncached as generate_uncached
from kvlab.model import Transformer as Transformer
from kvlab.pack import Channels as Channels
from kvlab.pack import CodesPerChannel as CodesPerChannel
from kvlab.pack import CodesPerToken as CodesPerToken
from kvlab.pack import PackedKVCache as PackedKVCache
from kvlab.pack import PerToken as PerToken
from kvlab.prune import Elements as Elements
from kvlab.prune import Evict as Evict
from kvlab.prune import Evidence as Evidence
from kvlab.prune import Pruner as Pruner
from kvlab.prune import Sparsify as Sparsify
from kvlab.prune import Then as Then
from kvlab.prune import density as density
from kvlab.prune import needs as needs
from kvlab.quality.laws import check_policy as check_policy
from kvlab.sampling import Sampler as Sampler
from kvlab.sampling import greedy as greedy
from kvlab.shell.export import export as export
from kvlab.tokenizer import Tokenizer as Tokenizer

__version__: str
__all__: list[str]
