package dcp

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
)

// torch.save writes a zip archive of stored (not compressed) members: the
// object as a pickle, and each tensor's elements apart from it. PyTorch also
// aligns the elements at 64 bytes and adds an id of the serialisation; its
// reader needs neither.
const (
	objectMember   = "archive/data.pkl"
	elementsMember = "archive/data/0"
)

// archiveTensor encodes a tensor as torch.save does.
func archiveTensor(shape []int, elements []float32) ([]byte, error) {
	storage := pyPersistent{pyTuple{"storage", floatStorage, "0", "cpu", int64(len(elements))}}
	tensor := pyCall{rebuildTensor, pyTuple{storage, int64(0), pyInts(shape), pyInts(strides(shape)), false, pyCall{orderedDict, pyTuple{}}}}
	raw := make([]byte, 0, 4*len(elements))
	for _, x := range elements {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(x))
	}
	return archive(pickle(tensor), raw)
}

// archiveObject encodes an object without tensors as torch.save does.
func archiveObject(object any) ([]byte, error) { return archive(pickle(object), nil) }

func archive(object, elements []byte) ([]byte, error) {
	members := []struct {
		name    string
		content []byte
	}{{objectMember, object}, {"archive/byteorder", []byte("little")}, {elementsMember, elements}, {"archive/version", []byte("3\n")}}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, m := range members {
		if m.content == nil {
			continue
		}
		size := uint64(len(m.content))
		member, err := w.CreateRaw(&zip.FileHeader{
			Name: m.name, Method: zip.Store, CRC32: crc32.ChecksumIEEE(m.content), CompressedSize64: size, UncompressedSize64: size,
		})
		if err != nil {
			return nil, err
		}
		if _, err := member.Write(m.content); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// elements gives the elements of a tensor from its archive.
func elements(archived []byte) ([]float32, error) {
	raw, err := readMember(archived, elementsMember)
	if err != nil {
		return nil, err
	}
	if len(raw)%4 != 0 {
		return nil, errors.New("elements are not float32")
	}
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out, nil
}

func readMember(archived []byte, name string) ([]byte, error) {
	r, err := zip.NewReader(bytes.NewReader(archived), int64(len(archived)))
	if err != nil {
		return nil, fmt.Errorf("open archive: %w", err)
	}
	f, err := r.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// strides of a contiguous tensor, in elements.
func strides(shape []int) []int {
	s := make([]int, len(shape))
	n := 1
	for i := len(shape) - 1; i >= 0; i-- {
		s[i] = n
		n *= shape[i]
	}
	return s
}
