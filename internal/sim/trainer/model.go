package trainer

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/evenkeel/evenkeel/internal/sim/trainer/dcp"
)

// layer is one mixture-of-experts layer with its optimiser state. Matrices are
// row-major float32.
type layer struct {
	router  []float32 // [experts][dim]
	experts []float32 // [experts][dim][dim]
	// bias is added to the router's score when it selects experts and not when it
	// weighs them; it moves against each expert's load (DeepSeek-V3's balancing
	// without an auxiliary loss).
	bias []float32 // [experts]

	routerMomentum, expertMomentum []float32
}

// model is all of the trainer's state but the step.
type model struct {
	dim, experts int
	layers       []layer
}

// Streams of random numbers, each seeded apart so that nothing depends on how
// much another has drawn.
const (
	streamParameters = iota
	streamTeacher
	streamData // plus the step and the rank
)

func stream(seed uint64, id, n uint64) *rand.Rand {
	return rand.New(rand.NewPCG(seed, id<<56|n))
}

func newModel(c *Config) *model {
	m := &model{dim: c.Dim, experts: c.Experts, layers: make([]layer, c.Layers)}
	r := stream(c.Seed, streamParameters, 0)
	scale := 1 / math.Sqrt(float64(c.Dim))
	for i := range m.layers {
		m.layers[i] = layer{
			router:         normals(r, c.Experts*c.Dim, scale),
			experts:        normals(r, c.Experts*c.Dim*c.Dim, 0.1*scale),
			bias:           make([]float32, c.Experts),
			routerMomentum: make([]float32, c.Experts*c.Dim),
			expertMomentum: make([]float32, c.Experts*c.Dim*c.Dim),
		}
	}
	return m
}

func normals(r *rand.Rand, n int, scale float64) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64() * scale)
	}
	return x
}

// tensor is a piece of the state with the name that it has in a checkpoint.
type tensor struct {
	fqn      string
	size     []int
	elements []float32
	sharded  bool // over the ranks by expert; otherwise rank 0 saves it
}

func (m *model) tensors() []tensor {
	var all []tensor
	for i := range m.layers {
		l := &m.layers[i]
		moe := fmt.Sprintf("layers.%d.moe.", i)
		router, experts := []int{m.experts, m.dim}, []int{m.experts, m.dim, m.dim}
		all = append(all,
			tensor{"model." + moe + "router.gate.weight", router, l.router, false},
			tensor{"model." + moe + "expert_bias", []int{m.experts}, l.bias, false},
			tensor{"model." + moe + "experts.w1", experts, l.experts, true},
			tensor{"optimizer.state." + moe + "router.gate.weight.momentum_buffer", router, l.routerMomentum, false},
			tensor{"optimizer.state." + moe + "experts.w1.momentum_buffer", experts, l.expertMomentum, true},
		)
	}
	return all
}

const trainState = "train_state"

// save writes the state after a step as a checkpoint.
func (m *model) save(dir string, ranks, step int, tear *dcp.Tear) error {
	shards := make([]dcp.Shard, ranks)
	shards[0].Objects = []dcp.Object{{FQN: trainState, Fields: map[string]int64{"step": int64(step)}}}
	for _, t := range m.tensors() {
		if !t.sharded {
			shards[0].Chunks = append(shards[0].Chunks, chunk(t, 0, t.size[0]))
			continue
		}
		per := t.size[0] / ranks
		for rank := range shards {
			shards[rank].Chunks = append(shards[rank].Chunks, chunk(t, rank*per, per))
		}
	}
	return dcp.Save(dir, shards, tear)
}

// chunk is the part of a tensor from row first on.
func chunk(t tensor, first, rows int) dcp.Chunk {
	row := len(t.elements) / t.size[0]
	offset, shape := make([]int, len(t.size)), append([]int(nil), t.size...)
	offset[0], shape[0] = first, rows
	return dcp.Chunk{FQN: t.fqn, Size: t.size, Offset: offset, Shape: shape, Elements: t.elements[first*row : (first+rows)*row]}
}

// load replaces the state by that of a checkpoint and gives its step.
func (m *model) load(dir string) (step int, err error) {
	c, err := dcp.Load(dir)
	if err != nil {
		return 0, err
	}
	for _, t := range m.tensors() {
		saved := c.Tensors[t.fqn]
		if saved == nil || len(saved.Elements) != len(t.elements) {
			return 0, fmt.Errorf("load checkpoint %s: %s is missing or of another size", dir, t.fqn)
		}
		copy(t.elements, saved.Elements)
	}
	state, ok := c.Objects[trainState]["step"]
	if !ok {
		return 0, fmt.Errorf("load checkpoint %s: %s is missing", dir, trainState)
	}
	return int(state), nil
}
