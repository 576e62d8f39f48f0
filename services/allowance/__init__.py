"""What a tenant's requests may have between them: see `services.allowance.allowances`."""

from services.allowance.allowances import Allowance, Allowances, OverLimit, Usage
from services.allowance.need import Need, need

__all__ = ["Allowance", "Allowances", "Need", "OverLimit", "Usage", "need"]
