"""The words of the page Methods: how figures come about, what is not seen, the glossary.

Contract: Markdown, true of the profiler as it is; changed together with it.
Boundary: text only.
"""

WORDS = """\
#### How

- **Saved tensors.** PyTorch's saved-tensor hooks report every tensor that autograd keeps for
  backward. When contexts of such hooks nest, only the innermost runs, so every pair that is pushed
  during recording (`save_on_cpu`, checkpointing, offloaders) is wrapped and gives what it gave
  before. Results are equal bit by bit with recording on and off.
- **Storages.** Memory is counted in storages, the blocks that tensors view. A storage is known by a
  weak reference and a serial number, never by its address: addresses are handed out again.
- **The graph.** It is walked from the loss when backward begins. A save belongs to the node whose
  sequence number was the latest when it was packed.
- **Memory over time.** A thread samples every 20 ms, and at every change of phase. On CUDA the
  allocator is asked; on a CPU the sum of the storages seen is given, with the resident set size
  beside it.
- **Traffic.** Copies are counted where a hook made them. On a machine without a GPU the host is a
  second, separately counted piece of CPU memory: bytes are real, times are not those of a bus.
  Such copies are called simulated everywhere and have no bandwidth.

#### Not seen

- Under `torch.compile` the compiler decides what is saved: only what it leaves to eager autograd is
  recorded.
- Temporaries inside an operation, the CUDA context, NCCL and library workspaces are not storages of
  a tensor anyone saves. What the allocator holds beyond the known is "unexplained".
- What happens between two samples. The peak of a step is exact for storages that were seen; the
  division of the fullest moment is that of the fullest sample.
- Writes through `.data`, NumPy or DLPack do not move a tensor's version.
- The level `summary` has bytes per module and no single save: no graph, lines or duplicates.

#### Words

| word | meaning |
|---|---|
| MiB | 2**20 bytes, always; so are the MB of the eDKM paper |
| storage, view | a block of memory; a tensor that looks at (part of) one |
| saved | kept by autograd from forward until backward |
| new, unique | a storage that nothing in the step saved before; each counts once, whole |
| repeated | bytes of a saved tensor that an earlier one touches already |
| wasted | host memory that was filled with such bytes again |
| hops | operations between a saved tensor and the copy that it is rebuilt from |
| D2H, H2D | from device to host, in forward; and back, in backward |
| M, U, S | marshaling, uniquification, sharding (arXiv 2309.00964) |
| learner, peer | one of several processes that train together; all but one may be simulated |
| step | from one `optimizer.step()` to the next, or one configuration of an ablation |
"""
