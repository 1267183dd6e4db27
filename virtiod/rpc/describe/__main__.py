from __future__ import annotations

from virtiod.rpc.describe import FILES, description

for path, content in FILES.items():
    path.parent.mkdir(exist_ok=True)
    path.write_text(content(description()))
