// Package layout holds the rules of the source tree as tests: who may import
// whom, what the pure core must not touch, and what keeps the tree readable.
package layout

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/evenkeel/evenkeel"

// source is one parsed Go file.
type source struct {
	path    string // relative to the repository, slash-separated
	dir     string
	test    bool
	lines   int
	file    *ast.File
	imports []string
}

// tree parses every Go file of the module.
func tree(t *testing.T) []source {
	t.Helper()
	root := filepath.Join("..", "..")
	var sources []source
	fset := token.NewFileSet()
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		content, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(fset, p, content, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		rel = filepath.ToSlash(rel)
		s := source{path: rel, dir: path.Dir(rel), test: strings.HasSuffix(name, "_test.go"), lines: strings.Count(string(content), "\n"), file: f}
		for _, imp := range f.Imports {
			v, err := strconv.Unquote(imp.Path.Value)
			if err != nil {
				return err
			}
			s.imports = append(s.imports, v)
		}
		sources = append(sources, s)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(sources) < 20 {
		t.Fatalf("found only %d Go files below %s", len(sources), root)
	}
	return sources
}

// within reports whether dir is folder or below it.
func within(dir, folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }

func withinAny(dir string, folders []string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return within(dir, f) })
}

// parts are the product's parts: none imports another, cmd imports them all.
var parts = []string{"agent", "collector", "remediate", "alerts", "dashboards"}

// mayImport gives, for a folder of the module, the folders of the module that
// its non-test files may import.
func mayImport(dir string) []string {
	if within(dir, "cmd") {
		return append([]string{"internal", dir}, parts...)
	}
	if within(dir, "internal/sim") {
		return []string{"internal"}
	}
	if within(dir, "internal") {
		return []string{"internal"}
	}
	for _, part := range parts {
		if within(dir, part) {
			return []string{"internal", part}
		}
	}
	return []string{"internal"} // scripts and test folders
}

func TestWhoMayImportWhom(t *testing.T) {
	for _, s := range tree(t) {
		if s.test || within(s.dir, "test") {
			continue
		}
		for _, imp := range s.imports {
			target, ours := strings.CutPrefix(imp, module+"/")
			if !ours {
				continue
			}
			if !withinAny(target, mayImport(s.dir)) {
				t.Errorf("%s imports %s: a part imports only itself and internal, cmd imports the parts", s.path, target)
			}
			if within(target, "internal/sim") && !within(s.dir, "internal/sim") && !within(s.dir, "cmd/evenkeel") {
				t.Errorf("%s imports %s: only the demo and tests may see the simulated cluster", s.path, target)
			}
		}
	}
}

// forbidden lists imports that a folder must never have, with the reason.
var forbidden = []struct{ dir, prefix, why string }{
	{"agent", "k8s.io/", "the agent holds no rights in Kubernetes"},
	{"agent", "github.com/aws/aws-sdk-go-v2/service/sagemaker", "the agent observes, it does not remediate"},
	{"agent", "github.com/prometheus/prometheus", "the agent must stay small"},
	{"collector", "github.com/aws/aws-sdk-go-v2/service/sagemaker", "detection never imports an actuator"},
	{"alerts", "github.com/aws/aws-sdk-go-v2/service/sagemaker", "detection never imports an actuator"},
	{"remediate", "github.com/prometheus/prometheus", "the remediator stays free of the rule engine"},
	{"collector", "github.com/prometheus/prometheus", "the collector asks a store, it is none"},
}

func TestForbiddenImports(t *testing.T) {
	for _, s := range tree(t) {
		if s.test {
			continue
		}
		for _, f := range forbidden {
			for _, imp := range s.imports {
				if within(s.dir, f.dir) && strings.HasPrefix(imp, f.prefix) {
					t.Errorf("%s imports %s: %s", s.path, imp, f.why)
				}
			}
		}
	}
}

// pure lists the packages that take values and a time and return values.
var pure = []string{"internal/fault", "agent/health", "collector/expert", "collector/cache", "collector/correlate", "remediate/policy", "remediate/guard"}

// impure is what a pure package must not import.
var impure = []string{"os", "net", "net/http", "os/exec", "syscall", "log", "log/slog", "math/rand", "math/rand/v2"}

// timeCalls read the clock or wait for it.
var timeCalls = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTicker", "NewTimer"}

func TestPureCoreTouchesNothing(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range tree(t) {
		if s.test || !slices.Contains(pure, s.dir) {
			continue
		}
		seen[s.dir] = true
		for _, imp := range s.imports {
			if slices.Contains(impure, imp) {
				t.Errorf("%s imports %s: the pure core does no I/O", s.path, imp)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				t.Errorf("%s starts a goroutine: the pure core has none", s.path)
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(timeCalls, n.Sel.Name) {
					t.Errorf("%s calls time.%s: the pure core is given the time", s.path, n.Sel.Name)
				}
			}
			return true
		})
	}
	for _, p := range pure {
		if !seen[p] {
			t.Errorf("%s has no source files: correct the list of pure packages", p)
		}
	}
}

func TestExitOnlyInMain(t *testing.T) {
	for _, s := range tree(t) {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := sel.X.(*ast.Ident); ok && (x.Name == "os" && sel.Sel.Name == "Exit" || x.Name == "log" && strings.HasPrefix(sel.Sel.Name, "Fatal")) {
				t.Errorf("%s calls %s.%s: only main ends the process", s.path, x.Name, sel.Sel.Name)
			}
			return true
		})
	}
}

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	docs := map[string]int{}
	for _, s := range tree(t) {
		if s.test && !within(s.dir, "test") {
			continue
		}
		if s.file.Doc != nil {
			docs[s.dir]++
		} else {
			docs[s.dir] += 0
		}
	}
	for _, dir := range slices.Sorted(maps.Keys(docs)) {
		if docs[dir] != 1 {
			t.Errorf("%s has %d package comments, want 1", dir, docs[dir])
		}
	}
}

func TestNames(t *testing.T) {
	vague := []string{"util", "utils", "common", "helper", "helpers", "misc", "base", "impl", "manager", "managers"}
	for _, s := range tree(t) {
		for _, element := range strings.Split(s.path, "/") {
			if slices.Contains(vague, strings.TrimSuffix(element, ".go")) {
				t.Errorf("%s: %q says nothing about what is inside", s.path, element)
			}
		}
	}
}

func TestFilesStayReadable(t *testing.T) {
	const most = 500
	for _, s := range tree(t) {
		if s.lines > most {
			t.Errorf("%s has %d lines, more than %d: split it by idea", s.path, s.lines, most)
		}
	}
}

func TestModuleHasNoReplace(t *testing.T) {
	content, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(content), "\nreplace ") {
		t.Error("go.mod replaces a module: users of `go install` would get another program")
	}
}
