package pickle

import "fmt"

// checkShape refuses a value that contains itself or is nested deeper than
// depth. Shared has the identities of the containers that may be met more than
// once; they are visited once, so the cost is that of the pickle.
func checkShape(value any, shared map[any]bool, depth int) error {
	s := shape{heights: make(map[any]int), shared: shared, limit: depth}
	_, err := s.height(value, 0)
	return err
}

type shape struct {
	heights map[any]int // of each shared container; onPath while inside it
	shared  map[any]bool
	limit   int
}

const onPath = -1

// height is how many containers deep value is, itself included, when it lies
// inside above others.
func (s *shape) height(value any, above int) (int, error) {
	id := identity(value)
	if id == nil {
		return 0, nil
	}
	h, seen := s.heights[id]
	if seen && h == onPath {
		return 0, errSelf
	}
	if above+max(h, 1) > s.limit {
		return 0, fmt.Errorf("nested deeper than %d", s.limit)
	}
	if seen {
		return h, nil
	}
	track := s.shared[id]
	if track {
		s.heights[id] = onPath
	}
	highest := 0
	err := visit(value, func(child any) error {
		h, err := s.height(child, above+1)
		highest = max(highest, h)
		return err
	})
	if track {
		s.heights[id] = highest + 1
	}
	return highest + 1, err
}

// identity is by what a container is known when it is met again; nil for a
// value that holds nothing.
func identity(value any) any {
	switch v := value.(type) {
	case *List, *Set, *Dict, *Record:
		return v
	case Tuple:
		if len(v) > 0 {
			return &v[0]
		}
	}
	return nil
}

// visit calls f with everything that a container holds, until f fails.
func visit(value any, f func(any) error) error {
	switch v := value.(type) {
	case Tuple:
		return visitAll(v, f)
	case *List:
		return visitAll(v.Items, f)
	case *Set:
		return visitAll(v.Items, f)
	case *Dict:
		return visitPairs(v.Pairs, f)
	case *Record:
		if err := visitAll([]any{v.Args, v.State}, f); err != nil {
			return err
		}
		if err := visitAll(v.Items, f); err != nil {
			return err
		}
		return visitPairs(v.Pairs, f)
	}
	return nil
}

func visitAll(items []any, f func(any) error) error {
	for _, item := range items {
		if err := f(item); err != nil {
			return err
		}
	}
	return nil
}

func visitPairs(pairs []Pair, f func(any) error) error {
	for _, p := range pairs {
		if err := f(p.Key); err != nil {
			return err
		}
		if err := f(p.Value); err != nil {
			return err
		}
	}
	return nil
}
