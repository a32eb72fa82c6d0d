import subprocess
import sys


def test_tracks_and_queries_come_without_torch():
    code = "from pointloom import Queries, Tracks; Queries.grid(3); import sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert not {"torch", "cv2", "av"} & set(loaded)
