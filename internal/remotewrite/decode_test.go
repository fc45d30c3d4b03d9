package remotewrite

import (
	"fmt"
	"math"
	"testing"

	"github.com/golang/snappy"
	"google.golang.org/protobuf/encoding/protowire"
)

// decoded is one sample as a receiver reads it.
type decoded struct {
	labels []label
	bits   uint64
	at     int64
}

func (d decoded) String() string {
	s := ""
	for _, l := range d.labels {
		s += fmt.Sprintf("%s=%q ", l.name, l.value)
	}
	value := fmt.Sprint(math.Float64frombits(d.bits))
	if d.bits == staleNaN {
		value = "stale"
	}
	return fmt.Sprintf("%s%s @%d", s, value, d.at)
}

func decodeBody(t testing.TB, content []byte) []decoded {
	t.Helper()
	raw, err := snappy.Decode(nil, content)
	if err != nil {
		t.Fatalf("snappy: %v", err)
	}
	if len(raw) > maxBodyBytes {
		t.Errorf("body has %d bytes, want at most %d", len(raw), maxBodyBytes)
	}
	var out []decoded
	eachField(t, raw, func(n protowire.Number, series []byte, _ uint64) {
		if n != fieldTimeSeries {
			t.Fatalf("field %d in a WriteRequest", n)
		}
		var d decoded
		eachField(t, series, func(n protowire.Number, message []byte, _ uint64) {
			switch n {
			case fieldLabels:
				var l label
				eachField(t, message, func(n protowire.Number, text []byte, _ uint64) {
					switch n {
					case fieldLabelName:
						l.name = string(text)
					case fieldLabelValue:
						l.value = string(text)
					}
				})
				d.labels = append(d.labels, l)
			case fieldSamples:
				eachField(t, message, func(n protowire.Number, _ []byte, number uint64) {
					switch n {
					case fieldSampleValue:
						d.bits = number
					case fieldSampleTimestamp:
						d.at = int64(number)
					}
				})
			default:
				t.Fatalf("field %d in a TimeSeries", n)
			}
		})
		out = append(out, d)
	})
	return out
}

func eachField(t testing.TB, b []byte, visit func(n protowire.Number, content []byte, number uint64)) {
	t.Helper()
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			t.Fatalf("tag: %v", protowire.ParseError(size))
		}
		b = b[size:]
		var content []byte
		var number uint64
		switch kind {
		case protowire.BytesType:
			content, size = protowire.ConsumeBytes(b)
		case protowire.Fixed64Type:
			number, size = protowire.ConsumeFixed64(b)
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		default:
			t.Fatalf("wire type %d", kind)
		}
		if size < 0 {
			t.Fatalf("field %d: %v", n, protowire.ParseError(size))
		}
		b = b[size:]
		visit(n, content, number)
	}
}
