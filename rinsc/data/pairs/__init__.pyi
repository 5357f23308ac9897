"""The names of pictures with captions for programs, and where each is from."""

from rinsc.data.pairs.captions import CaptionTokenizer as CaptionTokenizer
from rinsc.data.pairs.captions import canonical as canonical
from rinsc.data.pairs.captions import caption_tokenizer_from_state as caption_tokenizer_from_state
from rinsc.data.pairs.captions import load_caption_tokenizer as load_caption_tokenizer
from rinsc.data.pairs.classes import LabelledPictures as LabelledPictures
from rinsc.data.pairs.classes import open_classes as open_classes
from rinsc.data.pairs.examples import EncodedCaptions as EncodedCaptions
from rinsc.data.pairs.examples import HeldOutPairs as HeldOutPairs
from rinsc.data.pairs.examples import Pair as Pair
from rinsc.data.pairs.examples import TrainingPairs as TrainingPairs
from rinsc.data.pairs.examples import collate_pairs as collate_pairs
from rinsc.data.pairs.examples import learned_caption_tokenizer as learned_caption_tokenizer
from rinsc.data.pairs.opened import PicturePairs as PicturePairs
from rinsc.data.pairs.opened import open_pairs as open_pairs

__all__: list[str]
