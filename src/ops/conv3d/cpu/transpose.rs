//! Turning blocks of a matrix over, four by four.

/// `to[j·to_step + i] = from[i·from_step + j]` for `i < rows` and `j < columns`.
pub(super) fn transpose(from: &[f32], from_step: usize, to: &mut [f32], to_step: usize, rows: usize, columns: usize) {
    let (whole_rows, whole_columns) = (rows / 4 * 4, columns / 4 * 4);
    for i in (0..whole_rows).step_by(4) {
        for j in (0..whole_columns).step_by(4) {
            let row = |r: usize| -> [f32; 4] {
                let at = (i + r) * from_step + j;
                [from[at], from[at + 1], from[at + 2], from[at + 3]]
            };
            let [a, b, c, d] = [row(0), row(1), row(2), row(3)];
            for r in 0..4 {
                let at = (j + r) * to_step + i;
                to[at..at + 4].copy_from_slice(&[a[r], b[r], c[r], d[r]]);
            }
        }
    }
    for i in 0..rows {
        for j in if i < whole_rows { whole_columns } else { 0 }..columns {
            to[j * to_step + i] = from[i * from_step + j];
        }
    }
}
