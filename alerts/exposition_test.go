package alerts_test

import (
	"bytes"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// shape is what rules and panels rely on in a metric.
type shape struct {
	Type   string
	Labels []string
}

func shapeOf(family *dto.MetricFamily) shape {
	labels := map[string]bool{}
	for _, m := range family.Metric {
		for _, pair := range m.Label {
			labels[pair.GetName()] = true
		}
	}
	return shape{Type: family.GetType().String(), Labels: slices.Sorted(maps.Keys(labels))}
}

// The expositions of testdata, which stand for the daemons in the tests of rules
// and panels, are like the golden ones that the daemons' own tests produce.
func TestExpositionsAreLikeTheDaemonsOwn(t *testing.T) {
	produced := map[string]shape{}
	for _, part := range []string{"agent", "collector", "remediate"} {
		maps.Copy(produced, goldenShapes(t, filepath.Join("..", part)))
	}
	compared := 0
	for _, daemon := range daemons {
		for name, family := range parseExposition(t, exposition(t, daemon)) {
			want, ok := produced[name]
			if !ok {
				continue
			}
			compared++
			if diff := cmp.Diff(want, shapeOf(family)); diff != "" {
				t.Errorf("%s of testdata/%s.prom is not like the daemon's (-daemon +testdata):\n%s", name, daemon, diff)
			}
		}
	}
	if compared == 0 {
		t.Error("no golden exposition of a daemon was found")
	}
}

// goldenShapes finds expositions among the golden files below dir.
func goldenShapes(t *testing.T, dir string) map[string]shape {
	t.Helper()
	shapes := map[string]shape{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.Contains(path, "testdata") {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(content, []byte("# HELP ")) {
			return err
		}
		parser := expfmt.NewTextParser(model.LegacyValidation)
		families, err := parser.TextToMetricFamilies(bytes.NewReader(content))
		if err != nil {
			return nil // an engine's exposition may be malformed on purpose
		}
		for name, family := range families {
			shapes[name] = shapeOf(family)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return shapes
}

// A metric that a daemon no longer has must not live on in testdata, where it
// would keep rules and panels alive that ask for it.
func TestDaemonsHaveEveryMetricOfTheExpositions(t *testing.T) {
	for daemon, part := range map[string]string{"agent": "agent", "collector": "collector", "remediator": "remediate"} {
		code := source(t, filepath.Join("..", part))
		for name := range parseExposition(t, exposition(t, daemon)) {
			if !strings.Contains(code, `"`+name+`"`) {
				t.Errorf("testdata/%s.prom has %s, which no source file below %s names", daemon, name, part)
			}
		}
	}
}

// source gives the Go code below dir, without its tests.
func source(t *testing.T, dir string) string {
	t.Helper()
	var code strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		code.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return code.String()
}
