package engine

import "container/list"

// lru is a block cache that evicts what was not used for the longest time.
type lru struct {
	capacity int
	order    *list.List // most recently used first
	blocks   map[blockID]*list.Element
}

func newLRU(capacity int) *lru {
	return &lru{capacity: capacity, order: list.New(), blocks: make(map[blockID]*list.Element)}
}

// use reports whether the block is held and makes it the most recently used.
func (l *lru) use(b blockID) bool {
	e, ok := l.blocks[b]
	if ok {
		l.order.MoveToFront(e)
	}
	return ok
}

func (l *lru) put(b blockID) {
	if l.use(b) {
		return
	}
	l.blocks[b] = l.order.PushFront(b)
	if l.order.Len() > l.capacity {
		oldest := l.order.Back()
		delete(l.blocks, l.order.Remove(oldest).(blockID))
	}
}

// usage is the share of the capacity in use.
func (l *lru) usage() float64 { return float64(l.order.Len()) / float64(l.capacity) }
