import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Kernels as small as these wait for a second thread longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
