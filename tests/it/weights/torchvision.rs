//! Networks of torchvision, saved in both of PyTorch's formats and imported by `weights import`: what the `model.py` beside
//! them builds computes what torchvision's own compute. Runs where `TUBELET_TEST_PYTHON` (or else `python3`) has torch,
//! torchvision and safetensors.

use super::plain_pytorch::{COMPUTE, compare, python};
use crate::support::programs::example;
use crate::support::skip::absent;
use std::process::Command;

/// Writes each network in both formats, and a clip with what the network makes of it.
const SAVE: &str = "
import pathlib, sys, torch, torchvision
from safetensors.torch import save_file
torch.set_num_threads(2)
torch.manual_seed(0)
home = pathlib.Path(sys.argv[1])
for name in ('r3d_18', 'r2plus1d_18'):
    net = getattr(torchvision.models.video, name)(weights=None, num_classes=7).eval()
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm3d):
            for values in (part.weight, part.running_var):
                torch.nn.init.uniform_(values, 0.5, 1.5)
            for values in (part.bias, part.running_mean):
                torch.nn.init.uniform_(values, -0.5, 0.5)
    clip = torch.rand(2, 3, 8, 36, 44)
    with torch.no_grad():
        logits, head = net(clip), net.fc
        net.fc = torch.nn.Identity()
        features = net(clip)
        net.fc = head
    for form in ('zip', 'stream'):
        torch.save(net.state_dict(), home / f'{name}_{form}.pth', _use_new_zipfile_serialization=form == 'zip')
    want = {'clip': clip.permute(0, 2, 3, 4, 1), 'features': features, 'logits': logits}
    save_file({k: v.detach().contiguous() for k, v in want.items()}, home / f'{name}.safetensors')
";

#[test]
fn networks_of_torchvision_compute_the_same_after_import_and_export() {
    let Some(python) = python("torch, torchvision, safetensors.torch") else {
        return absent(
            "a Python with torch, torchvision and safetensors",
            "torchvision's networks imported and exported",
        );
    };
    let Some(weights) = example("weights") else { return };
    let (files, folders) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let said = |command: &mut Command| -> String {
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    said(Command::new(&python).args(["-c", SAVE]).arg(files.path()));
    for arch in ["r3d_18", "r2plus1d_18"] {
        for form in ["zip", "stream"] {
            let (file, out) = (format!("{arch}_{form}.pth"), folders.path().join(format!("{arch}_{form}")));
            let import = ["import", &file, "--arch", arch, "--out"];
            let text = said(Command::new(&weights).current_dir(files.path()).args(import).arg(&out));
            assert!(text.contains("2 tensors of its head found") && !text.contains("left out"), "{text}");
            std::fs::copy(files.path().join(format!("{arch}.safetensors")), out.join("want.safetensors")).unwrap();
        }
    }
    said(Command::new(&python).args(["-c", COMPUTE]).arg(folders.path()));
    assert_eq!(compare(folders.path()), 4 * 2);
}
