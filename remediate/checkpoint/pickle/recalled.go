package pickle

// bitset is a set of small numbers.
type bitset []uint64

func (b bitset) has(n uint64) bool { return n/64 < uint64(len(b)) && b[n/64]&(1<<(n%64)) != 0 }

func (b bitset) add(n uint64) bitset {
	for uint64(len(b)) <= n/64 {
		b = append(b, 0)
	}
	b[n/64] |= 1 << (n % 64)
	return b
}

// recalled gives the memo entries that the rest of the pickle recalls. It reads
// opcodes and skips what follows them, up to STOP or up to what cannot be read,
// where the machine stops as well.
func recalled(in input) bitset {
	var entries bitset
	var stored uint64
	for {
		op, err := in.takeOpcode()
		if err != nil || op == opStop {
			return entries
		}
		switch op {
		case opBinPut, opLongBinPut, opMemoize:
			stored++
		case opBinGet, opLongBinGet:
			index, err := in.takeUint(operandBytes(op))
			if err != nil || index >= stored {
				return entries
			}
			entries = entries.add(index)
			continue
		}
		if err := in.skip(op); err != nil {
			return entries
		}
	}
}

// skip passes over what follows an opcode.
func (in *input) skip(op opcode) error {
	var err error
	switch op {
	case opGlobal:
		if _, err = in.takeLine(); err == nil {
			_, err = in.takeLine()
		}
	case opShortBinUnicode, opBinUnicode, opBinUnicode8, opShortBinBytes, opBinBytes, opBinBytes8, opByteArray8:
		_, err = in.takeCounted(operandBytes(op))
	case opLong1, opLong4:
		_, err = in.takeLong(op)
	default:
		_, err = in.take(operandBytes(op))
	}
	return err
}
