// Package checkpoint decides which checkpoint of a training job may be resumed
// from. It reads PyTorch distributed checkpoints (DCP) on a file system as
// TorchTitan lays them out:
//
//	<dir>/step-<N>/.metadata           what is where, a Python pickle
//	<dir>/step-<N>/__<rank>_<n>.distcp the shards
//
// The coordinator renames .metadata into place after every rank has written its
// shards, so .metadata is the commit mark. It does not prove that the shards are
// still there and whole: a checkpoint is taken for whole only if each byte range
// that .metadata promises lies within a shard.
//
// The package never executes what a checkpoint contains, never leaves the
// folder that it was asked about, and refuses what it cannot vouch for with a
// reason. Contents of shards carry no checksum in this format and are not
// verified. A file system that does not answer is an error, not "no
// checkpoint".
//
// A further format is a second implementation of what verify.go does for DCP,
// chosen by what the step folder contains.
package checkpoint
