//! Protocols of evaluation by name: which clips of a video are seen, and which classifier is trained on their features.
//! The table with its sources is in `docs/evaluation.md`.

use clap::ValueEnum;
use tubelet::eval::views::Views;

/// Mean and standard deviation of ImageNet's colours, which MCL's networks expect.
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// Protocols (`--preset`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Preset {
    /// Logistic regression on the mean of a few centre clips, with the clips of the network's own training
    Small,
    /// MaCLR's linear evaluation on UCF101: a layer by gradient descent, 32 frames 8 apart, 10 clips x 3 crops of 256
    /// pixels
    MaclrUcf101,
    /// MCL's on Kinetics-400: a layer by gradient descent on features of unit length, 20 centre clips of 16 frames 2
    /// apart
    MclK400,
    /// MCL's on UCF101: a support vector machine on the mean of 20 centre clips of 16 frames 2 apart
    MclUcf101,
}

/// Classifiers (`--classifier`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Classifier {
    /// Multinomial logistic regression on standardised features, to its minimum
    Logistic,
    /// Linear support vector machine, squared hinge, one class against the others, to its minimum
    Svm,
    /// One linear layer by stochastic gradient descent
    Sgd,
}

/// What a preset sets.
#[derive(Clone, Copy, Debug)]
pub struct Protocol {
    pub classifier: Classifier,
    /// Frames, their distance, and the side of a clip; `None` for those of the network's own training.
    pub clip: Option<[usize; 3]>,
    /// `None` for the clips of the run's own probe.
    pub views: Option<Views>,
    /// Whether a video's features are scaled to unit length. If so, gradient descent sees one row of each video,
    /// otherwise one of each clip.
    pub unit: bool,
    /// Of gradient descent: rate, passes, samples per step.
    pub lr: f64,
    pub epochs: u64,
    pub batch: usize,
    /// Mean and deviation of the colours, if the network's own are not known.
    pub colours: Option<[[f32; 3]; 2]>,
}

impl Preset {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Its values.
    pub fn protocol(self) -> Protocol {
        let small = Protocol {
            classifier: Classifier::Logistic,
            clip: None,
            views: None,
            unit: false,
            lr: 1.0,
            epochs: 100,
            batch: 64,
            colours: None,
        };
        let mcl = Protocol {
            clip: Some([16, 2, 224]),
            views: Some(Views { clips: 20, crops: 1 }),
            colours: Some(IMAGENET),
            ..small
        };
        match self {
            Preset::Small => small,
            Preset::MaclrUcf101 => Protocol {
                classifier: Classifier::Sgd,
                clip: Some([32, 8, 256]),
                views: Some(Views { clips: 10, crops: 3 }),
                lr: 32.0,
                epochs: 200,
                batch: 256,
                ..small
            },
            Preset::MclK400 => {
                Protocol { classifier: Classifier::Sgd, unit: true, lr: 16.0, epochs: 100, batch: 256, ..mcl }
            }
            Preset::MclUcf101 => Protocol { classifier: Classifier::Svm, ..mcl },
        }
    }
}

impl Classifier {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Classifier::Logistic => "logistic",
            Classifier::Svm => "svm",
            Classifier::Sgd => "sgd",
        }
    }
}
