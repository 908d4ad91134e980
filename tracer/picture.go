package tracer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"decaf/api/packet"
)

// maxRows bounds the paths in a picture.
const maxRows = 64

// picture draws the paths, one a row, TTLs from left to right; a node that
// neighbouring rows share is drawn once:
//
//	10.0.0.1 ── 10.1.0.1 ─┬─ 10.2.1.1 ─┬─ 10.4.0.1
//	                      └─ 10.2.2.1 ─┘
func picture(f *Fan, flow packet.Flow) string {
	rows, width := pictureRows(f, flow)
	if len(rows) == 0 {
		return "no path was seen from end to end\n"
	}
	var b strings.Builder
	joints := make([][]rune, width) // between column i-1 and i, by row
	for i := 1; i < width; i++ {
		joints[i] = joint(rows, i)
	}
	widest := make([]int, width)
	for _, row := range rows {
		for i, text := range row {
			widest[i] = max(widest[i], utf8.RuneCountInString(text))
		}
	}
	for r, row := range rows {
		var line strings.Builder
		for i := range width {
			text, shared := row[i], r > 0 && row[i] == rows[r-1][i]
			if shared {
				text = ""
			}
			if i > 0 {
				left, right := ' ', ' '
				if r == 0 || row[i-1] != rows[r-1][i-1] {
					left = '─'
				}
				if !shared {
					right = '─'
				}
				if row[i] == "" {
					left, right = ' ', ' '
				}
				line.WriteString(string([]rune{' ', left, joints[i][r], right, ' '}))
			}
			line.WriteString(text)
			if i == width-1 || text == "" || row[i+1] == "" {
				line.WriteString(strings.Repeat(" ", widest[i]-utf8.RuneCountInString(text)))
				continue
			}
			if pad := widest[i] - utf8.RuneCountInString(text); pad > 0 {
				line.WriteString(" " + strings.Repeat("─", pad-1))
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	if n := len(f.Paths) - maxRows; n > 0 {
		fmt.Fprintf(&b, "and %d more\n", n)
	}
	return b.String()
}

// pictureRows are the paths as text, both ends included, sorted so that shared
// nodes come together.
func pictureRows(f *Fan, flow packet.Flow) (rows [][]string, width int) {
	paths := slices.Clone(f.Paths)
	slices.SortFunc(paths, func(a, b FanPath) int {
		for i := range min(len(a.Nodes), len(b.Nodes)) {
			if c := f.Hops[i][a.Nodes[i]].Address.Compare(f.Hops[i][b.Nodes[i]].Address); c != 0 {
				return c
			}
		}
		return len(a.Nodes) - len(b.Nodes)
	})
	for _, p := range paths[:min(len(paths), maxRows)] {
		row := append([]string{flow.Src.Addr().String()}, f.texts(p)...)
		if last := len(p.Nodes) - 1; last == len(f.Hops)-1 && !f.Hops[last][p.Nodes[last]].End {
			row = append(row, flow.Dst.Addr().String())
		}
		rows = append(rows, row)
		width = max(width, len(row))
	}
	for i := range rows {
		for len(rows[i]) < width {
			rows[i] = append(rows[i], "")
		}
	}
	return rows, width
}

// joint gives for every row what joins column i-1 and i.
func joint(rows [][]string, i int) []rune {
	out := make([]rune, len(rows))
	arms := func(r int) (left, right bool) {
		if rows[r][i] == "" {
			return false, false
		}
		return r == 0 || rows[r][i-1] != rows[r-1][i-1], r == 0 || rows[r][i] != rows[r-1][i]
	}
	for begin := 0; begin < len(rows); {
		end := begin + 1 // of the rows that hang together
		for end < len(rows) && rows[end][i] != "" && (rows[end][i-1] == rows[end-1][i-1] || rows[end][i] == rows[end-1][i]) {
			end++
		}
		last := begin
		for r := begin; r < end; r++ {
			if left, right := arms(r); left || right {
				last = r
			}
		}
		for r := begin; r < end; r++ {
			left, right := arms(r)
			out[r] = box(left, right, r > begin && r <= last, r < last)
		}
		begin = end
	}
	return out
}

// box is the line that goes to these sides.
func box(left, right, up, down bool) rune {
	n := 0
	for i, side := range []bool{left, right, up, down} {
		if side {
			n |= 1 << i
		}
	}
	return [16]rune{
		' ', '─', '─', '─', // none, left, right, both
		' ', '┘', '└', '┴', // and up
		' ', '┐', '┌', '┬', // and down
		'│', '┤', '├', '┼', // and both
	}[n]
}
