//! Protocols of evaluation by name: which clips of a video are seen, and which classifier is trained on their features.
//! The table with its sources is in `docs/evaluation.md`.

use super::args::one_of;
use clap::ValueEnum;
use tubelet::eval::Pool;
use tubelet::eval::views::Views;

/// Mean and standard deviation of ImageNet's colours, which MCL's networks expect.
pub const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// The RGB network of MaCLR, and the network of MCL.
pub const MACLR: &str = "cvrl_r3d50";
pub const MCL: &str = "p3d_a50";

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

/// `#[command(flatten)] protocol: ProtocolOption`.
#[derive(clap::Args)]
pub struct ProtocolOption {
    /// Protocol: which clips are seen, and how they are classified
    #[arg(long, value_enum, default_value_t = Preset::Small)]
    pub preset: Preset,
}

/// `#[command(flatten)] pool: PoolOption`.
#[derive(clap::Args)]
pub struct PoolOption {
    /// How the codes of a video's clips, one for each time step of the network's last map, become its features: their mean;
    /// all of them in the order of time; or their temporal moments (mean, standard deviation and skewness)
    #[arg(long, value_name = "HOW", default_value_t = Pool::Mean, value_parser = one_of(Pool::ALL.map(|p| (p.name(), p))))]
    pub pool: Pool,
}

/// What a preset sets of the clips that are seen of a test video.
#[derive(Clone, Debug)]
pub struct Sampling {
    /// The preset's name.
    pub preset: String,
    /// The network that the protocol is published for, by its name.
    pub network: Option<&'static str>,
    /// Frames, their distance, and the side of a clip; `None` for those of the network's own training.
    pub clip: Option<[usize; 3]>,
    /// `None` for the clips of the run's own probe.
    pub views: Option<Views>,
    /// Whether a clip has one frame from each of equal segments of its video.
    pub segments: bool,
    /// Mean and deviation of the colours, if the network's own are not known.
    pub colours: Option<[[f32; 3]; 2]>,
    /// Whether a video's features are scaled to unit length. If so, gradient descent sees one row of each video,
    /// otherwise one of each clip.
    pub unit: bool,
    /// How codes over time become a video's features.
    pub pool: Pool,
}

/// What a preset sets.
#[derive(Clone, Debug)]
pub struct Protocol {
    pub sampling: Sampling,
    pub classifier: Classifier,
    /// Of gradient descent: rate, passes, samples per step.
    pub lr: f64,
    pub epochs: u64,
    pub batch: usize,
}

impl Preset {
    /// Its name on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Its values.
    pub fn protocol(self) -> Protocol {
        let all = Sampling {
            preset: self.name(),
            network: None,
            clip: None,
            views: None,
            segments: false,
            colours: None,
            unit: false,
            pool: Pool::Mean,
        };
        let mcl = Sampling {
            network: Some(MCL),
            clip: Some([16, 2, 224]),
            views: Some(Views { clips: 20, crops: 1 }),
            colours: Some(IMAGENET),
            ..all.clone()
        };
        let of = |sampling, classifier| Protocol { sampling, classifier, lr: 1.0, epochs: 100, batch: 64 };
        match self {
            Preset::Small => of(all, Classifier::Logistic),
            Preset::MaclrUcf101 => {
                let views = Some(Views { clips: 10, crops: 3 });
                let sampling = Sampling { network: Some(MACLR), clip: Some([32, 8, 256]), views, ..all };
                Protocol { lr: 32.0, epochs: 200, batch: 256, ..of(sampling, Classifier::Sgd) }
            }
            Preset::MclK400 => Protocol { lr: 16.0, batch: 256, ..of(Sampling { unit: true, ..mcl }, Classifier::Sgd) },
            Preset::MclUcf101 => of(mcl, Classifier::Svm),
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
