"""Every setting: a frozen dataclass for each section of params.yaml, checked by dotted name when it is made."""

from cgankd.config.bank import BANK_UNSAID as BANK_UNSAID
from cgankd.config.bank import BankConfig as BankConfig
from cgankd.config.bank import RatioConfig as RatioConfig
from cgankd.config.cgan import CganConfig as CganConfig
from cgankd.config.cgan import LabelInputConfig as LabelInputConfig
from cgankd.config.cgan import VicinityConfig as VicinityConfig
from cgankd.config.data import AUGMENTS as AUGMENTS
from cgankd.config.data import DataConfig as DataConfig
from cgankd.config.data import check_augment as check_augment
from cgankd.config.distill import ArmConfig as ArmConfig
from cgankd.config.fit import FitConfig as FitConfig
from cgankd.config.fit import TeacherConfig as TeacherConfig
from cgankd.config.nets import NETS as NETS
from cgankd.config.probe import ProbeConfig as ProbeConfig
from cgankd.config.settings import ConfigError as ConfigError
from cgankd.config.settings import to_dict as to_dict
from cgankd.config.whole import BESIDE as BESIDE
from cgankd.config.whole import Config as Config
from cgankd.config.whole import EvaluateConfig as EvaluateConfig
from cgankd.config.whole import StudentConfig as StudentConfig
from cgankd.config.whole import TrackingConfig as TrackingConfig
from cgankd.config.whole import config_from_dict as config_from_dict
