package expert

import (
	"fmt"
	"math"
)

// UnmarshalJSON reads a matrix of non-negative integers. It exists because the
// matrix is nearly all of a post: decoding it by reflection takes several times
// as long and would grow without bound on hostile nesting. data is one valid
// JSON value.
func (c *Counts) UnmarshalJSON(data []byte) error {
	*c = nil
	s := scanner{data: data}
	err := s.array("counts", MaxLayers, func(layer int) error {
		row := make([]int64, 0, s.width(*c))
		err := s.array(fmt.Sprintf("counts[%d]", layer), MaxExperts, func(expert int) error {
			n, err := s.integer(MaxCount)
			if err != nil {
				return fmt.Errorf("counts[%d][%d]: %w", layer, expert, err)
			}
			row = append(row, n)
			return nil
		})
		*c = append(*c, row)
		return err
	})
	return err
}

// UnmarshalJSON reads the lists of ranks by layer and expert. All lists of one
// layer share one array.
func (p *Placement) UnmarshalJSON(data []byte) error {
	*p = nil
	s := scanner{data: data}
	return s.array("placement", MaxLayers, func(layer int) error {
		var held []int32 // every list of the layer, one after the other
		var ends []int   // where each list ends
		if layer > 0 {
			last := (*p)[layer-1]
			ends, held = make([]int, 0, len(last)), make([]int32, 0, len(last))
		}
		err := s.array(fmt.Sprintf("placement[%d]", layer), MaxExperts, func(expert int) error {
			at := func() string { return fmt.Sprintf("placement[%d][%d]", layer, expert) }
			err := s.array("", MaxRanks, func(i int) error {
				rank, err := s.integer(maxRankID - 1)
				if err != nil {
					return fmt.Errorf("%s[%d]: %w", at(), i, err)
				}
				held = append(held, int32(rank))
				return nil
			})
			ends = append(ends, len(held))
			if notArray, ok := err.(*shapeError); ok {
				notArray.field = at()
			}
			return err
		})
		row := make([][]int32, len(ends))
		start := 0
		for expert, end := range ends {
			row[expert] = held[start:end:end]
			start = end
		}
		*p = append(*p, row)
		return err
	})
}

// scanner walks over one valid JSON value that should be nested arrays of
// non-negative integers.
type scanner struct {
	data []byte
	pos  int
}

// shapeError says that a value is no array, or too long a one.
type shapeError struct {
	field string
	limit int
}

func (e *shapeError) Error() string {
	if e.limit > 0 {
		return fmt.Sprintf("%s: more than %d entries", e.field, e.limit)
	}
	return e.field + ": must be an array"
}

// width guesses the length of the next row from the rows so far.
func (s *scanner) width(rows [][]int64) int {
	if len(rows) == 0 {
		return 0
	}
	return len(rows[len(rows)-1])
}

func (s *scanner) peek() byte {
	for s.pos < len(s.data) {
		switch b := s.data[s.pos]; b {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return b
		}
	}
	return 0
}

// array calls element at the start of each element of the array.
func (s *scanner) array(field string, limit int, element func(i int) error) error {
	if s.peek() != '[' {
		return &shapeError{field: field}
	}
	s.pos++
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for i := 0; ; i++ {
		if i == limit {
			return &shapeError{field: field, limit: limit}
		}
		s.peek()
		if err := element(i); err != nil {
			return err
		}
		next := s.peek()
		s.pos++
		if next == ']' {
			return nil
		}
		if next != ',' {
			return fmt.Errorf("%s[%d]: must be a non-negative integer", field, i)
		}
	}
}

// integer reads a non-negative integer of at most limit. JSON has one kind of
// number, so "1e3" and "1.0" are valid JSON; they are refused because counts
// that went through floating point are not counts any more.
func (s *scanner) integer(limit int64) (int64, error) {
	start := s.pos
	var n int64
	for s.pos < len(s.data) {
		d := s.data[s.pos] - '0'
		if d > 9 {
			break
		}
		if n > (math.MaxInt64-9)/10 {
			n = math.MaxInt64
		} else {
			n = n*10 + int64(d)
		}
		s.pos++
	}
	digits := s.pos > start
	if s.pos < len(s.data) {
		switch s.data[s.pos] {
		case '.', 'e', 'E', '-', '"', 't', 'f', 'n', '[', '{':
			digits = false
		}
	}
	if !digits {
		end := min(len(s.data), start+24)
		return 0, fmt.Errorf("must be a non-negative integer, got %.24q", s.data[start:end])
	}
	if n > limit {
		return 0, fmt.Errorf("must be at most %d", limit)
	}
	return n, nil
}
