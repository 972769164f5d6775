import sys; sys.path.insert(0,'/tmp/w/pods/tests/integration')
import test_damaged_workdir as t, pytest
from test_damaged_workdir import finished, half
@pytest.mark.parametrize("which",["half", "finished"])
def test_p(which, request, tmp_path, capfd):
    source=request.getfixturevalue(which)
    if which=="finished": ev=[(n,k) for n in t.names_of(source) for k in ("gone","a folder","empty")]
    else: ev=[(n,k) for n in t.names_of(source) for k in t.DAMAGE if "_CHECKPOINT_METADATA" in n]+[(n,k) for n in t.names_of(source) for k in ("gone","a folder", "deep")]
    w=t.silent_changes(source,which,ev,tmp_path,capfd)
    with capfd.disabled(): print(len(ev), *w, sep="\n")
